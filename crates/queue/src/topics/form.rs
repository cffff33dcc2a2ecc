//! Stored forms, each with its version: the topics in a snapshot, a change in an entry, its outcome in an answer.

use std::sync::Arc;

use store::codec::{Corrupt, Input, put_varint};

use super::{Change, Edit, How, Outcome, Settings, Topic, TopicId, Topics};
use crate::code::Code;
use crate::limits::{PARTITIONS_MAX, TOPICS_MAX};
use crate::words::{end, int16, list, maybe, put_bool, put_int, put_maybe, put_text, text, truth, uint32, version};

const VERSION: u8 = 1;

pub(crate) fn put_id(out: &mut Vec<u8>, id: TopicId) {
    out.extend_from_slice(&id.0.to_le_bytes());
}

pub(crate) fn id(input: &mut Input<'_>) -> Result<TopicId, Corrupt> {
    let bytes = input.take(16)?.try_into().map_err(|_| Corrupt("a topic id of another length"))?;
    Ok(TopicId(u128::from_le_bytes(bytes)))
}

fn put_pairs<'a>(out: &mut Vec<u8>, count: usize, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    put_varint(out, count as u64);
    for (key, value) in pairs {
        put_text(out, key);
        put_text(out, value);
    }
}

impl Topics {
    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_varint(out, self.index);
        put_varint(out, self.len() as u64);
        for topic in self.iter() {
            put_text(out, &topic.name);
            put_id(out, topic.id);
            put_varint(out, u64::from(topic.partitions));
            put_varint(out, topic.created);
            let pairs: Vec<(&str, &str)> = topic.settings.iter().collect();
            put_pairs(out, pairs.len(), pairs.into_iter());
        }
    }

    /// Reads what [`Topics::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(input: &mut Input<'_>) -> Result<Topics, Corrupt> {
        version(input, VERSION)?;
        let mut topics = Topics { index: input.varint()?, ..Topics::default() };
        let count = input.count()?;
        if count > TOPICS_MAX {
            return Err(Corrupt("more topics than there may be"));
        }
        for _ in 0..count {
            let name: Arc<str> = text(input)?.into();
            let (id, partitions, created) = (id(input)?, uint32(input)?, input.varint()?);
            let mut settings = Settings::default();
            for (key, value) in list(input, |input| Ok((text(input)?, text(input)?)))? {
                settings.set(key, value).map_err(|_| Corrupt("a setting that cannot be"))?;
            }
            if topics.by_name.contains_key(&name) || topics.by_id.contains_key(&id) {
                return Err(Corrupt("a topic stands twice"));
            }
            topics.partitions += u64::from(partitions);
            if topics.partitions > PARTITIONS_MAX {
                return Err(Corrupt("more partitions than there may be"));
            }
            topics.put(Topic { name, id, partitions, settings, created });
        }
        Ok(topics)
    }
}

impl Change {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Change::Create { name, partitions, settings } => {
                out.push(1);
                put_text(&mut out, name);
                put_varint(&mut out, u64::from(*partitions));
                put_pairs(&mut out, settings.len(), settings.iter().map(|(key, value)| (key.as_str(), value.as_str())));
            }
            Change::Delete { name, id } => {
                out.push(2);
                put_text(&mut out, name);
                put_maybe(&mut out, *id, put_id);
            }
            Change::Grow { name, partitions } => {
                out.push(3);
                put_text(&mut out, name);
                put_varint(&mut out, u64::from(*partitions));
            }
            Change::Configure { name, edits, replace } => {
                out.push(4);
                put_text(&mut out, name);
                put_bool(&mut out, *replace);
                put_varint(&mut out, edits.len() as u64);
                for Edit { key, how } in edits {
                    put_text(&mut out, key);
                    let (number, value) = match how {
                        How::Set(value) => (0, Some(value)),
                        How::Delete => (1, None),
                        How::Append(value) => (2, Some(value)),
                        How::Subtract(value) => (3, Some(value)),
                    };
                    out.push(number);
                    if let Some(value) = value {
                        put_text(&mut out, value);
                    }
                }
            }
        }
        out
    }

    /// Reads what [`Change::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Change, Corrupt> {
        let mut input = Input::new(bytes);
        let input = &mut input;
        version(input, VERSION)?;
        let kind = input.u8()?;
        let name = text(input)?.to_owned();
        let change = match kind {
            1 => Change::Create {
                name,
                partitions: uint32(input)?,
                settings: list(input, |input| Ok((text(input)?.to_owned(), text(input)?.to_owned())))?,
            },
            2 => Change::Delete { name, id: maybe(input, id)? },
            3 => Change::Grow { name, partitions: uint32(input)? },
            4 => {
                let replace = truth(input)?;
                Change::Configure { name, replace, edits: list(input, edit)? }
            }
            _ => return Err(Corrupt("unknown change of the topics")),
        };
        end(input)?;
        Ok(change)
    }
}

fn edit(input: &mut Input<'_>) -> Result<Edit, Corrupt> {
    let key = text(input)?.to_owned();
    let how = match input.u8()? {
        0 => How::Set(text(input)?.to_owned()),
        1 => How::Delete,
        2 => How::Append(text(input)?.to_owned()),
        3 => How::Subtract(text(input)?.to_owned()),
        _ => return Err(Corrupt("unknown change of a setting")),
    };
    Ok(Edit { key, how })
}

impl Outcome {
    /// The form in which it is answered.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Outcome::Done { id, partitions } => {
                out.push(0);
                put_id(&mut out, *id);
                put_varint(&mut out, u64::from(*partitions));
            }
            Outcome::Refused(code, why) => {
                out.push(1);
                put_int(&mut out, i64::from(code.0));
                put_text(&mut out, why);
            }
        }
        out
    }

    /// Reads what [`Outcome::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Outcome, Corrupt> {
        let mut input = Input::new(bytes);
        let input = &mut input;
        version(input, VERSION)?;
        let outcome = match input.u8()? {
            0 => Outcome::Done { id: id(input)?, partitions: uint32(input)? },
            1 => Outcome::Refused(Code(int16(input)?), text(input)?.to_owned()),
            _ => return Err(Corrupt("unknown outcome")),
        };
        end(input)?;
        Ok(outcome)
    }
}

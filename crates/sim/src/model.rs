//! What a client believes of its own keys: a model of Redis's commands that shares no code with the product.

use std::collections::{BTreeMap, VecDeque};

/// Runs a read.
pub type Ask<'a> = dyn FnMut(&[&[u8]]) -> Result<Answer, String> + 'a;

/// A parsed answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `+`.
    Simple(Vec<u8>),
    /// `-`.
    Error(Vec<u8>),
    /// `:`.
    Int(i64),
    /// `$`, absent where null.
    Bulk(Option<Vec<u8>>),
    /// `*`, absent where null.
    Array(Option<Vec<Answer>>),
}

impl Answer {
    /// Reads one whole answer of RESP2.
    pub fn parse(bytes: &[u8]) -> Result<Answer, String> {
        let mut at = 0;
        let answer = parse(bytes, &mut at).ok_or_else(|| format!("no answer: {}", show(bytes)))?;
        if at == bytes.len() { Ok(answer) } else { Err(format!("more than one answer: {}", show(bytes))) }
    }

    /// A number, as an integer or as text; null counts as zero.
    pub fn number(&self) -> Result<u64, String> {
        match self {
            Answer::Int(number) if *number >= 0 => Ok(*number as u64),
            Answer::Bulk(None) => Ok(0),
            Answer::Bulk(Some(text)) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| format!("{self:?} is no number")),
            _ => Err(format!("{self:?} is no number")),
        }
    }

    /// The items of an array; null has none.
    pub fn items(&self) -> Result<&[Answer], String> {
        match self {
            Answer::Array(None) => Ok(&[]),
            Answer::Array(Some(items)) => Ok(items),
            _ => Err(format!("{self:?} is no array")),
        }
    }

    /// Text.
    pub fn text(&self) -> Result<Vec<u8>, String> {
        match self {
            Answer::Bulk(Some(text)) => Ok(text.clone()),
            _ => Err(format!("{self:?} is no text")),
        }
    }
}

/// Bytes for people.
pub fn show(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(200)];
    String::from_utf8_lossy(cut).replace("\r\n", "\\r\\n")
}

fn parse(bytes: &[u8], at: &mut usize) -> Option<Answer> {
    let end = *at + bytes[*at..].windows(2).position(|pair| pair == b"\r\n")?;
    let line = &bytes[*at..end];
    *at = end + 2;
    let (kind, rest) = line.split_first()?;
    let number = || std::str::from_utf8(rest).ok()?.parse::<i64>().ok();
    Some(match kind {
        b'+' => Answer::Simple(rest.to_vec()),
        b'-' => Answer::Error(rest.to_vec()),
        b':' => Answer::Int(number()?),
        b'$' => match number()? {
            -1 => Answer::Bulk(None),
            length => {
                let text = bytes.get(*at..*at + length as usize)?.to_vec();
                *at += length as usize + 2;
                Answer::Bulk(Some(text))
            }
        },
        b'*' => match number()? {
            -1 => Answer::Array(None),
            count => {
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(parse(bytes, at)?);
                }
                Answer::Array(Some(items))
            }
        },
        _ => return None,
    })
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(Vec<u8>),
    /// A list.
    List(VecDeque<Vec<u8>>),
    /// A hash.
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    /// A sorted set with whole scores.
    Zset(BTreeMap<Vec<u8>, i64>),
    /// What a stream's entries hold.
    Stream(Vec<Vec<u8>>),
}

/// A command on a client's own keys.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Own {
    Set(Vec<u8>),
    Get,
    Append(Vec<u8>),
    DelText,
    Incr,
    GetCount,
    RPush(Vec<u8>),
    LPop,
    LRange,
    HSet(Vec<u8>, Vec<u8>),
    HGet(Vec<u8>),
    ZAdd(Vec<u8>, i64),
    ZScore(Vec<u8>),
    XAdd(Vec<u8>),
    XLen,
    DelAll,
    /// A script that sets the text and counts, both or neither.
    Eval(Vec<u8>),
}

/// Kinds of own keys.
pub const KINDS: [&str; 6] = ["text", "count", "list", "hash", "zset", "stream"];

const SCRIPT: &[u8] = b"redis.call('SET',KEYS[1],ARGV[1]) return redis.call('INCR',KEYS[2])";

impl Own {
    /// Whether it changes nothing.
    pub fn reads(&self) -> bool {
        matches!(self, Own::Get | Own::GetCount | Own::LRange | Own::HGet(_) | Own::ZScore(_) | Own::XLen)
    }

    /// Whether it only frees.
    pub fn frees(&self) -> bool {
        matches!(self, Own::DelText | Own::DelAll | Own::LPop)
    }

    /// The words sent, for a client's keys.
    pub fn words(&self, client: u64) -> Vec<Vec<u8>> {
        let key = |kind: &str| key(client, kind);
        let word = |word: &str| word.as_bytes().to_vec();
        match self {
            Own::Set(value) => vec![word("SET"), key("text"), value.clone()],
            Own::Get => vec![word("GET"), key("text")],
            Own::Append(value) => vec![word("APPEND"), key("text"), value.clone()],
            Own::DelText => vec![word("DEL"), key("text")],
            Own::Incr => vec![word("INCR"), key("count")],
            Own::GetCount => vec![word("GET"), key("count")],
            Own::RPush(value) => vec![word("RPUSH"), key("list"), value.clone()],
            Own::LPop => vec![word("LPOP"), key("list")],
            Own::LRange => vec![word("LRANGE"), key("list"), word("0"), word("-1")],
            Own::HSet(field, value) => vec![word("HSET"), key("hash"), field.clone(), value.clone()],
            Own::HGet(field) => vec![word("HGET"), key("hash"), field.clone()],
            Own::ZAdd(member, score) => vec![word("ZADD"), key("zset"), word(&score.to_string()), member.clone()],
            Own::ZScore(member) => vec![word("ZSCORE"), key("zset"), member.clone()],
            Own::XAdd(value) => vec![word("XADD"), key("stream"), word("*"), word("v"), value.clone()],
            Own::XLen => vec![word("XLEN"), key("stream")],
            Own::DelAll => std::iter::once(word("DEL")).chain(KINDS.iter().map(|kind| key(kind))).collect(),
            Own::Eval(value) => {
                vec![word("EVAL"), SCRIPT.to_vec(), word("2"), key("text"), key("count"), value.clone()]
            }
        }
    }
}

/// The name of a client's own key.
pub fn key(client: u64, kind: &str) -> Vec<u8> {
    format!("c{client}:{kind}").into_bytes()
}

/// A client's own keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model(pub BTreeMap<&'static str, Value>);

impl Model {
    fn count(&self) -> i64 {
        match self.0.get("count") {
            Some(Value::Text(text)) => String::from_utf8_lossy(text).parse().unwrap_or(0),
            _ => 0,
        }
    }

    fn bump(&mut self) -> i64 {
        let count = self.count() + 1;
        self.0.insert("count", Value::Text(count.to_string().into_bytes()));
        count
    }

    /// Does it and says what the answer must be; `None` where it cannot be known (an id that the server chooses).
    pub fn apply(&mut self, own: &Own) -> Option<Answer> {
        let text = |value: Option<&Value>| match value {
            Some(Value::Text(text)) => Answer::Bulk(Some(text.clone())),
            _ => Answer::Bulk(None),
        };
        Some(match own {
            Own::Set(value) => {
                self.0.insert("text", Value::Text(value.clone()));
                Answer::Simple(b"OK".to_vec())
            }
            Own::Get => text(self.0.get("text")),
            Own::GetCount => text(self.0.get("count")),
            Own::Append(more) => {
                let value = self.0.entry("text").or_insert_with(|| Value::Text(Vec::new()));
                let Value::Text(value) = value else { return None };
                value.extend_from_slice(more);
                Answer::Int(value.len() as i64)
            }
            Own::DelText => Answer::Int(i64::from(self.0.remove("text").is_some())),
            Own::Incr => Answer::Int(self.bump()),
            Own::RPush(item) => {
                let list = self.0.entry("list").or_insert_with(|| Value::List(VecDeque::new()));
                let Value::List(list) = list else { return None };
                list.push_back(item.clone());
                Answer::Int(list.len() as i64)
            }
            Own::LPop => {
                let Some(Value::List(list)) = self.0.get_mut("list") else { return Some(Answer::Bulk(None)) };
                let item = list.pop_front();
                if list.is_empty() {
                    self.0.remove("list");
                }
                Answer::Bulk(item)
            }
            Own::LRange => {
                let items = match self.0.get("list") {
                    Some(Value::List(list)) => list.iter().map(|item| Answer::Bulk(Some(item.clone()))).collect(),
                    _ => Vec::new(),
                };
                Answer::Array(Some(items))
            }
            Own::HSet(field, value) => {
                let hash = self.0.entry("hash").or_insert_with(|| Value::Hash(BTreeMap::new()));
                let Value::Hash(hash) = hash else { return None };
                Answer::Int(i64::from(hash.insert(field.clone(), value.clone()).is_none()))
            }
            Own::HGet(field) => match self.0.get("hash") {
                Some(Value::Hash(hash)) => Answer::Bulk(hash.get(field).cloned()),
                _ => Answer::Bulk(None),
            },
            Own::ZAdd(member, score) => {
                let zset = self.0.entry("zset").or_insert_with(|| Value::Zset(BTreeMap::new()));
                let Value::Zset(zset) = zset else { return None };
                Answer::Int(i64::from(zset.insert(member.clone(), *score).is_none()))
            }
            Own::ZScore(member) => match self.0.get("zset") {
                Some(Value::Zset(zset)) => Answer::Bulk(zset.get(member).map(|score| score.to_string().into_bytes())),
                _ => Answer::Bulk(None),
            },
            Own::XAdd(value) => {
                let stream = self.0.entry("stream").or_insert_with(|| Value::Stream(Vec::new()));
                let Value::Stream(stream) = stream else { return None };
                stream.push(value.clone());
                return None;
            }
            Own::XLen => match self.0.get("stream") {
                Some(Value::Stream(stream)) => Answer::Int(stream.len() as i64),
                _ => Answer::Int(0),
            },
            Own::DelAll => {
                let count = self.0.len();
                self.0.clear();
                Answer::Int(count as i64)
            }
            Own::Eval(value) => {
                self.0.insert("text", Value::Text(value.clone()));
                Answer::Int(self.bump())
            }
        })
    }

    /// What the node holds of a client's keys; `ask` runs a read.
    pub fn read(client: u64, ask: &mut Ask<'_>) -> Result<Model, String> {
        let mut model = Model::default();
        for kind in KINDS {
            let key = key(client, kind);
            let value = match kind {
                "text" | "count" => match ask(&[b"GET", &key])? {
                    Answer::Bulk(None) => continue,
                    answer => Value::Text(answer.text()?),
                },
                "list" => {
                    let answer = ask(&[b"LRANGE", &key, b"0", b"-1"])?;
                    Value::List(answer.items()?.iter().map(Answer::text).collect::<Result<_, _>>()?)
                }
                "hash" => {
                    let answer = ask(&[b"HGETALL", &key])?;
                    let pairs = answer.items()?.chunks(2).map(|pair| Ok((pair[0].text()?, pair[1].text()?)));
                    Value::Hash(pairs.collect::<Result<_, String>>()?)
                }
                "zset" => {
                    let answer = ask(&[b"ZRANGE", &key, b"0", b"-1", b"WITHSCORES"])?;
                    let pairs = answer.items()?.chunks(2).map(|pair| Ok((pair[0].text()?, pair[1].number()? as i64)));
                    Value::Zset(pairs.collect::<Result<_, String>>()?)
                }
                _ => Value::Stream(stream_values(&ask(&[b"XRANGE", &key, b"-", b"+"])?)?),
            };
            let vacant = match &value {
                Value::Text(_) => false,
                Value::List(list) => list.is_empty(),
                Value::Hash(hash) => hash.is_empty(),
                Value::Zset(zset) => zset.is_empty(),
                Value::Stream(stream) => stream.is_empty(),
            };
            if !vacant {
                model.0.insert(kind, value);
            }
        }
        Ok(model)
    }
}

/// The values of an XRANGE's entries of one field each.
pub fn stream_values(answer: &Answer) -> Result<Vec<Vec<u8>>, String> {
    let value = |entry: &Answer| {
        let fields = entry.items()?.get(1).ok_or("an entry without fields")?;
        fields.items()?.get(1).ok_or("a field without a value")?.text()
    };
    answer.items()?.iter().map(value).collect()
}

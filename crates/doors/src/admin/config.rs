//! Configuration over the admin door, below `/config`: which prefixes are, what is there, who changed what, and back. `quorate config` speaks it.
//!
//! ```text
//!  GET  /config                                  the prefixes, with their schemas
//!  POST /config/keep     {space, prefix, schema?}    keys that begin so are configuration; schema: a JSON schema
//!  POST /config/forget   {space, prefix}             they are keys like any other again
//!  POST /config/list     {space, prefix?}            keys that are configuration, and their values
//!  POST /config/history  {space, prefix?, count?}    changes, the newest first
//!  POST /config/set      {space, key, value, by?, index?}   index: only if the key is as of then; 0: only if it is not there
//!  POST /config/remove   {space, key, by?, index?}
//!  POST /config/rollback {space, key, to, by?}       as it was after the change of this number
//! ```
//!
//! `space` is `consul` (unless told) or `etcd`. What is not done answers `{"error": …}` with 400, 404, 409 (it has changed meanwhile), 422 (it does
//! not fit its schema) or 503.

use std::borrow::Cow;

use bytes::Bytes;
use coordination::command::{self, Command, Kind};
use coordination::proto::{
    Compare, CompareWith, DeleteRangeRequest, PutRequest, RequestKind, RequestOp, TxnRequest, TxnResponse, compare,
};
use discovery::change::{Change, KvOp, Outcome, Refusal, Verb};
use discovery::config::{ConfigChange, Space, Turn, WHO_BYTES_MAX};
use discovery::form::Blob;
use prost::Message;
use serde_json::{Map, Value, json};

use crate::registry::{ChangeError, Registry};

/// Keys of one list, and changes of one history.
pub const LISTED_MAX: usize = 1000;
/// Bytes of the values of one list or history.
const SHOWN_BYTES_MAX: usize = 16 << 20;
/// For whom etcd's keys are written: who has its rights, where users are asked.
const ETCD_USER: &str = "root";

/// Status and body.
pub type Told = (u16, Value);

fn error(status: u16, why: impl Into<String>) -> Told {
    (status, json!({ "error": why.into() }))
}

/// A request's members.
struct Asked(Map<String, Value>);

impl Asked {
    fn text(&self, name: &str) -> Result<&str, Told> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(error(400, format!("{name:?} wants a text"))),
        }
    }

    fn needed(&self, name: &str) -> Result<&str, Told> {
        self.text(name)
            .and_then(|text| if text.is_empty() { Err(error(400, format!("{name:?} is missing"))) } else { Ok(text) })
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Told> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| error(400, format!("{name:?} wants a number"))),
        }
    }

    fn space(&self) -> Result<Space, Told> {
        match self.text("space")? {
            "" => Ok(Space::Consul),
            word => Space::from_word(word).ok_or_else(|| error(400, "\"space\" is \"consul\" or \"etcd\"")),
        }
    }

    fn who(&self) -> Result<String, Told> {
        let by = self.text("by")?;
        if by.len() > WHO_BYTES_MAX || by.chars().any(char::is_control) {
            return Err(error(400, format!("\"by\" takes at most {WHO_BYTES_MAX} bytes, all of which can be shown")));
        }
        Ok(if by.is_empty() { "admin".to_owned() } else { format!("admin {by}") })
    }
}

/// Answers a request; `path` is without `/config`. What is read is what this node has applied.
pub async fn answer(registry: &Registry, method: &str, path: &str, body: &[u8]) -> Told {
    done(registry, method, path, body).await.unwrap_or_else(|told| told)
}

async fn done(registry: &Registry, method: &str, path: &str, body: &[u8]) -> Result<Told, Told> {
    let verb = path.trim_matches('/');
    if verb.is_empty() {
        return match method {
            "GET" | "HEAD" => Ok(rules(registry)),
            _ => Err(error(405, "GET /config, or POST to something below it; see docs/config.md")),
        };
    }
    if method != "POST" {
        return Err(error(405, "what is below /config takes POST"));
    }
    let asked = match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Asked(members),
        _ => return Err(error(400, "the body is to be a JSON object")),
    };
    let space = asked.space()?;
    match verb {
        "keep" => {
            let schema = match asked.0.get("schema") {
                None | Some(Value::Null) => String::new(),
                Some(schema) => schema.to_string(),
            };
            let prefix = asked.needed("prefix")?.to_owned();
            change(registry, &Change::Config(ConfigChange::Keep { space, prefix, schema })).await
        }
        "forget" => {
            let prefix = asked.needed("prefix")?.to_owned();
            change(registry, &Change::Config(ConfigChange::Forget { space, prefix })).await
        }
        "list" => Ok(list(registry, space, asked.text("prefix")?)),
        "history" => Ok(history(registry, space, &asked)?),
        "set" => {
            let value = asked.0.get("value").ok_or_else(|| error(400, "\"value\" is missing"))?;
            // A text is taken as it is, anything else as the JSON that it is.
            let value = value.as_str().map_or_else(|| Cow::Owned(value.to_string()), Cow::Borrowed);
            let write = Write {
                space,
                key: asked.needed("key")?,
                value: Some(value.as_bytes()),
                index: asked.number("index")?,
            };
            write.done(registry, asked.who()?).await
        }
        "remove" => {
            let write = Write { space, key: asked.needed("key")?, value: None, index: asked.number("index")? };
            write.done(registry, asked.who()?).await
        }
        "rollback" => rollback(registry, space, &asked).await,
        _ => Err(error(404, "below /config: keep, forget, list, history, set, remove, rollback")),
    }
}

async fn change(registry: &Registry, change: &Change) -> Result<Told, Told> {
    match registry.change(change).await {
        Ok(Outcome::Refused(Refusal::Unknown, why)) => Err(error(404, why)),
        Ok(Outcome::Refused(Refusal::Invalid, why)) => Err(error(422, why)),
        Ok(Outcome::Refused(Refusal::Full, why)) => Err(error(503, why)),
        Ok(Outcome::KvFailed(failures)) => Err(match failures.into_iter().next() {
            Some(failure) if failure.stale => error(409, "the key has changed meanwhile; nothing was done"),
            Some(failure) => error(422, failure.why),
            None => error(422, "nothing was done"),
        }),
        Ok(Outcome::Kv(results)) => {
            let index = results.first().and_then(|result| Some(result.entry.as_ref()?.ages.modified));
            Ok((200, json!({ "index": index })))
        }
        Ok(_) => Ok((200, json!({}))),
        Err(error @ ChangeError::Refused(_)) => Err(self::error(503, error.to_string())),
        Err(error @ ChangeError::Unknown) => Err(self::error(503, format!("{error}: look before you try again"))),
    }
}

/// A change of one key.
struct Write<'a> {
    space: Space,
    key: &'a str,
    /// `None` removes.
    value: Option<&'a [u8]>,
    index: Option<u64>,
}

impl Write<'_> {
    async fn done(self, registry: &Registry, who: String) -> Result<Told, Told> {
        let is_config = registry.read().config().prefix_of(self.space, self.key.as_bytes()).is_some();
        if !is_config {
            let why =
                format!("{:?} is below no prefix of configuration: `quorate config keep PREFIX` makes one", self.key);
            return Err(error(404, why));
        }
        match self.space {
            Space::Consul => {
                let verb = match (self.value, self.index) {
                    (Some(_), None) => Verb::Set,
                    (Some(_), Some(_)) => Verb::Cas,
                    (None, None) => Verb::Delete,
                    (None, Some(_)) => Verb::DeleteCas,
                };
                let op = KvOp {
                    verb,
                    key: self.key.to_owned(),
                    value: Blob(self.value.unwrap_or_default().to_vec()),
                    flags: self.flags(registry),
                    index: self.index.unwrap_or(0),
                    session: String::new(),
                };
                change(registry, &Change::Config(ConfigChange::By { who, ops: vec![op] })).await
            }
            Space::Etcd => self.etcd(registry).await,
        }
    }

    /// A key keeps the flags that it has.
    fn flags(&self, registry: &Registry) -> u64 {
        registry.read().key(self.key).map_or(0, |entry| entry.flags)
    }

    async fn etcd(self, registry: &Registry) -> Result<Told, Told> {
        let key = Bytes::copy_from_slice(self.key.as_bytes());
        let request = match self.value {
            Some(value) => RequestKind::Put(PutRequest {
                key: key.clone(),
                value: Bytes::copy_from_slice(value),
                // A key that a lease holds stays held by it; one that is not there has none.
                ignore_lease: registry.shard().state().coordination().store().get(&key).is_some(),
                ..PutRequest::default()
            }),
            None => RequestKind::Delete(DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() }),
        };
        let only_if = self.index.map(|index| Compare {
            result: compare::EQUAL,
            target: compare::MOD,
            key,
            target_union: Some(CompareWith::Mod(index as i64)),
            range_end: Bytes::new(),
        });
        let txn = TxnRequest {
            compare: only_if.into_iter().collect(),
            success: vec![RequestOp { request: Some(request) }],
            failure: Vec::new(),
        };
        let request = txn.encode_to_vec();
        let form = registry.etcd(&Command { kind: Kind::Txn, user: ETCD_USER, request: &request }).await;
        let form = form.map_err(|why| error(503, why.to_string()))?;
        let told = command::read_outcome(&form).map_err(|_| error(503, "the answer cannot be read"))?;
        let answer = told.map_err(|why| error(422, why.text.into_owned()))?;
        match TxnResponse::decode(&*answer.body) {
            Ok(response) if response.succeeded => Ok((200, json!({ "index": answer.revision }))),
            Ok(_) => Err(error(409, "the key has changed meanwhile; nothing was done")),
            Err(_) => Err(error(503, "the answer cannot be read")),
        }
    }
}

fn rules(registry: &Registry) -> Told {
    let catalog = registry.read();
    let rules = catalog.config().rules().map(|(space, prefix, schema)| {
        let schema: Value = serde_json::from_str(schema).unwrap_or(Value::Null);
        json!({ "space": space.word(), "prefix": prefix, "schema": schema })
    });
    (200, json!({ "prefixes": rules.collect::<Vec<_>>() }))
}

/// A value for people and programs: a text where it is one.
fn shown(value: &[u8]) -> Value {
    String::from_utf8_lossy(value).into()
}

fn list(registry: &Registry, space: Space, prefix: &str) -> Told {
    let (mut found, mut bytes) = (Vec::new(), 0);
    // One lock for both rooms, which are in one state.
    let state = registry.shard().state();
    let (catalog, store) = (state.catalog(), state.coordination().store());
    let is_config = |key: &[u8]| catalog.config().prefix_of(space, key).is_some();
    let mut take = |key: &[u8], value: &[u8], index: u64| {
        bytes += key.len() + value.len();
        let has_room = found.len() < LISTED_MAX && bytes <= SHOWN_BYTES_MAX;
        if has_room {
            found.push(json!({ "key": String::from_utf8_lossy(key), "value": shown(value), "index": index }));
        }
        has_room
    };
    let is_whole = match space {
        Space::Consul => {
            let mut keys = catalog.keys_under(prefix).filter(|(key, _)| is_config(key.as_bytes()));
            keys.all(|(key, entry)| take(key.as_bytes(), &entry.value.0, entry.ages.modified))
        }
        Space::Etcd => {
            let mut keys = store.under(prefix.as_bytes()).filter(|(key, _)| is_config(key));
            keys.all(|(key, version)| take(key, &version.value, version.main as u64))
        }
    };
    (200, json!({ "keys": found, "complete": is_whole }))
}

fn turn(turn: &Turn) -> Value {
    let value = |value: &Option<Blob>| value.as_ref().map(|value| shown(&value.0));
    json!({
        "number": turn.number,
        "key": turn.key,
        "who": turn.who,
        "at_ms": turn.at,
        "index": turn.index,
        "from": value(&turn.from),
        "to": value(&turn.to),
    })
}

fn history(registry: &Registry, space: Space, asked: &Asked) -> Result<Told, Told> {
    let prefix = asked.text("prefix")?;
    let count = asked.number("count")?.map_or(LISTED_MAX, |count| (count as usize).min(LISTED_MAX));
    let catalog = registry.read();
    let turns = catalog.config().turns().rev().filter(|one| one.space == space && one.key.starts_with(prefix));
    Ok((200, json!({ "changes": turns.take(count).map(turn).collect::<Vec<_>>() })))
}

async fn rollback(registry: &Registry, space: Space, asked: &Asked) -> Result<Told, Told> {
    let (key, who) = (asked.needed("key")?, asked.who()?);
    let number = asked.number("to")?.ok_or_else(|| error(400, "\"to\" is missing: the number of a change"))?;
    let (value, index) = {
        let state = registry.shard().state();
        let catalog = state.catalog();
        let wanted =
            catalog.config().turns().find(|turn| turn.number == number && turn.space == space && turn.key == key);
        let Some(wanted) = wanted else {
            return Err(error(
                404,
                format!("no change {number} of {key:?} is remembered; `quorate config history` lists them"),
            ));
        };
        let index = match space {
            Space::Consul => catalog.key(key).map(|entry| entry.ages.modified),
            Space::Etcd => state.coordination().store().get(key.as_bytes()).map(|(_, version)| version.main as u64),
        };
        (wanted.to.clone(), index)
    };
    if value.is_none() && index.is_none() {
        return Ok((200, json!({ "index": null })));
    }
    let value = value.as_ref().map(|value| value.0.as_slice());
    // Only what was looked at is overwritten.
    Write { space, key, value, index: Some(index.unwrap_or(0)) }
        .done(registry, format!("{who}, back to {number}"))
        .await
}

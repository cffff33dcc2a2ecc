//! The stored form of documents: canonical JSON.
//!
//! **Canonical**: keys in order of the alphabet, no spaces, and what equals its default is left out, so that the bytes say
//! what somebody decided and equal documents have equal bytes.
//!
//! **How it changes.** Members unknown to the reader are *tolerated* here, other than in what people write: a rolling upgrade has
//! nodes of two versions on one log, and a member that only refines (one more timeout) must not stop the older one. What must not
//! be overlooked (say, that a route asks for a token) is named by the writer in `needs`: a reader that does not know all of
//! these words refuses the document, and its node goes on with what it had, or answers 503, instead of letting everybody in.
//! The meaning of a key and a default of this form never change; a form that must differ gets the next number in `form`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Body, Document, Kind};

/// The number of this form.
pub const FORM: u64 = 1;
/// Words that may stand in `needs` and that this build knows.
pub const KNOWN_NEEDS: &[&str] = &[];
/// Largest stored document.
pub const DOCUMENT_BYTES_MAX: usize = 256 << 10;

/// Why a stored document cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It was written by a newer version and asks for what this one does not know. Upgrade this node.
    Newer(String),
    /// It is no document.
    Damaged(String),
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unreadable::Newer(what) => write!(out, "written by a newer version ({what}): upgrade this node"),
            Unreadable::Damaged(what) => write!(out, "not a document: {what}"),
        }
    }
}

impl std::error::Error for Unreadable {}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    form: u64,
    #[serde(default)]
    needs: Vec<String>,
}

/// Takes out of `value` what equals `default`, at every level of tables.
fn prune(value: Value, default: &Value) -> Option<Value> {
    if value == *default {
        return None;
    }
    match (value, default) {
        (Value::Object(table), Value::Object(defaults)) => Some(Value::Object(
            table
                .into_iter()
                .filter_map(|(key, value)| match defaults.get(&key) {
                    Some(default) => prune(value, default).map(|value| (key, value)),
                    None => Some((key, value)),
                })
                .collect(),
        )),
        (value, _) => Some(value),
    }
}

fn pruned<T: Serialize + Default>(body: &T) -> Map<String, Value> {
    let shown = |body: &T| serde_json::to_value(body).expect("documents have text keys and finite numbers");
    match prune(shown(body), &shown(&T::default())) {
        Some(Value::Object(table)) => table,
        _ => Map::new(),
    }
}

impl Document {
    /// The document without defaults, as a table: what `show` commands print, and what the strict reader takes again.
    pub fn to_table(&self) -> Map<String, Value> {
        match &self.body {
            Body::Listener(body) => pruned(body),
            Body::Route(body) => pruned(body),
            Body::Upstream(body) => pruned(body),
        }
    }

    /// The canonical bytes of its body. Kind and name are the key that it is stored under.
    pub fn to_stored(&self) -> Vec<u8> {
        let mut table = self.to_table();
        table.insert("form".into(), FORM.into());
        // serde_json's map is ordered by key: `preserve_order` is not on anywhere in this workspace (a test says so).
        Value::Object(table).to_string().into_bytes()
    }

    /// Reads what [`Document::to_stored`] of this or another version wrote.
    pub fn from_stored(kind: Kind, name: &str, bytes: &[u8]) -> Result<Document, Unreadable> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(Unreadable::Damaged(format!("{} bytes, at most {DOCUMENT_BYTES_MAX}", bytes.len())));
        }
        let damaged = |error: serde_json::Error| Unreadable::Damaged(error.to_string());
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(damaged)?;
        if envelope.form == 0 || envelope.form > FORM {
            let form = envelope.form;
            return Err(if form == 0 {
                Unreadable::Damaged("it has no form".into())
            } else {
                Unreadable::Newer(format!("form {form}, this one knows {FORM}"))
            });
        }
        if let Some(need) = envelope.needs.iter().find(|need| !KNOWN_NEEDS.contains(&need.as_str())) {
            return Err(Unreadable::Newer(format!("it needs {need:?}")));
        }
        fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
            serde_json::from_slice(bytes)
        }
        let body = match kind {
            Kind::Listener => Body::Listener(read(bytes).map_err(damaged)?),
            Kind::Route => Body::Route(Box::new(read(bytes).map_err(damaged)?)),
            Kind::Upstream => Body::Upstream(Box::new(read(bytes).map_err(damaged)?)),
        };
        Ok(Document { name: name.to_owned(), body })
    }
}

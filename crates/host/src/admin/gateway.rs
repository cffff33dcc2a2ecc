//! The front door's configuration over HTTP, below `/gateway` of the admin door. `quorate route`, `upstream`, `listener` and `apply`
//! speak it.
//!
//! ```text
//!  GET    /gateway                  all documents and their index
//!  GET    /gateway/look             routes, upstreams, endpoints, breakers and rates as they are now
//!  GET    /gateway/KIND/NAME        one document; KIND is route, upstream or listener
//!  PUT    /gateway/KIND/NAME        the document is this JSON object from now on
//!  PATCH  /gateway/KIND/NAME        the document with these changes (JSON merge patch, RFC 7396)
//!  DELETE /gateway/KIND/NAME        the document is gone
//!  POST   /gateway/apply            these documents (TOML, or JSON with content-type application/json), all or none;
//!                                   ?replace: and no others; ?check: only say whether they make sense
//! ```
//!
//! `If-Match: INDEX` on a change: only if the documents still have that index (412 else). What makes no sense answers 422 and says
//! all that is wrong.

use std::collections::BTreeMap;

use ::gateway::balance::Health;
use ::gateway::live::Snapshot;
use std::collections::BTreeSet;

use ::gateway::model::{Document, Kind, Node, Wrong, read_tables, read_toml};
use ::gateway::resilience::BreakerState;
use base::Counts;
use serde_json::{Map, Value, json};

use crate::gateway::Front;
use crate::gateway::documents::{Edit, NotApplied};

/// Largest body.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// A request below `/gateway`.
pub struct Asked<'a> {
    /// GET, PUT …
    pub method: &'a str,
    /// Without `/gateway`.
    pub path: &'a str,
    /// What follows the `?`.
    pub query: &'a str,
    /// Whether the body is JSON rather than TOML.
    pub is_json: bool,
    /// If-Match.
    pub expected: Option<u64>,
    /// The body.
    pub body: &'a [u8],
}

/// The answer: status and JSON.
pub struct Told {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Value,
}

/// An answer.
pub(super) fn told(status: u16, body: Value) -> Told {
    Told { status, body }
}

/// What went wrong.
pub(super) fn error(status: u16, why: impl Into<String>) -> Told {
    told(status, json!({ "error": why.into() }))
}

fn wrongs(wrongs: &[Wrong]) -> Told {
    let all: Vec<Value> = wrongs.iter().map(|wrong| json!(wrong.to_string())).collect();
    told(422, json!({ "error": "the configuration makes no sense with this; nothing was changed", "wrong": all }))
}

fn not_applied(why: &NotApplied) -> Told {
    match why {
        NotApplied::Wrong(all) => wrongs(all),
        NotApplied::Unknown(kind, name) => error(404, format!("there is no {} {name:?}", kind.word())),
        NotApplied::Stale(index) => {
            error(412, format!("the documents have changed: their index is {index} now; read them again"))
        }
        NotApplied::Failed(why) => error(503, why.clone()),
    }
}

/// Answers a request below `/gateway`.
pub async fn answer(front: &Front, asked: &Asked<'_>) -> Told {
    if asked.body.len() > BODY_BYTES_MAX {
        return error(413, format!("at most {BODY_BYTES_MAX} bytes"));
    }
    let parts: Vec<&str> = asked.path.trim_matches('/').split('/').filter(|part| !part.is_empty()).collect();
    match (asked.method, &parts[..]) {
        ("GET" | "HEAD", []) => all(front),
        ("GET" | "HEAD", ["look"]) => told(200, look(front)),
        ("POST", ["apply"]) => apply(front, asked).await,
        (method, [kind, name]) => match Kind::of(kind) {
            Some(kind) => one(front, asked, method, kind, name).await,
            None => error(404, format!("{kind:?} is no kind of document: route, upstream, listener")),
        },
        (_, [] | ["look"] | ["apply"]) => error(405, "this path takes another method; see GET /"),
        _ => error(404, "below /gateway: look, apply, route/NAME, upstream/NAME, listener/NAME"),
    }
}

fn all(front: &Front) -> Told {
    let (index, documents) = match front.documents.all() {
        Ok(all) => all,
        Err(why) => return error(503, why),
    };
    let mut tables: Map<String, Value> = Kind::ALL.iter().map(|kind| (kind.word().into(), json!({}))).collect();
    for document in documents {
        let table = tables.get_mut(document.kind().word()).and_then(Value::as_object_mut);
        if let Some(table) = table {
            table.insert(document.name.clone(), Value::Object(document.to_table()));
        }
    }
    tables.insert("index".into(), json!(index));
    told(200, Value::Object(tables))
}

async fn one(front: &Front, asked: &Asked<'_>, method: &str, kind: Kind, name: &str) -> Told {
    let find = |documents: &[Document]| {
        documents.iter().find(|document| document.kind() == kind && document.name == name).cloned()
    };
    let edited = match method {
        "GET" | "HEAD" => {
            return match front.documents.all().map(|(_, documents)| find(&documents)) {
                Ok(Some(document)) => told(200, Value::Object(document.to_table())),
                Ok(None) => not_applied(&NotApplied::Unknown(kind, name.to_owned())),
                Err(why) => error(503, why),
            };
        }
        "DELETE" => front.documents.edit(asked.expected, |_| Ok(vec![Edit::Remove(kind, name.to_owned())])).await,
        "PUT" => match Document::from_json(kind, name, asked.body) {
            Ok(document) => front.documents.edit(asked.expected, |_| Ok(vec![Edit::Put(document.clone())])).await,
            Err(wrong) => return wrongs(&[wrong]),
        },
        "PATCH" => {
            let patch: Value = match serde_json::from_slice(asked.body) {
                Ok(patch @ Value::Object(_)) => patch,
                Ok(_) => return error(422, "a patch is a JSON object"),
                Err(why) => return error(422, format!("the body is not JSON: {why}")),
            };
            let edits = |documents: &[Document]| {
                let document = find(documents).ok_or_else(|| NotApplied::Unknown(kind, name.to_owned()))?;
                let mut table = Value::Object(document.to_table());
                merge(&mut table, &patch);
                let document = Document::from_human(kind, name, &Node::from_json(&table));
                document.map(|document| vec![Edit::Put(document)]).map_err(|wrong| NotApplied::Wrong(vec![wrong]))
            };
            front.documents.edit(asked.expected, edits).await
        }
        _ => return error(405, "a document takes GET, PUT, PATCH and DELETE"),
    };
    done(front, edited)
}

/// The change is applied on this node before anybody is told of it.
fn done(front: &Front, edited: Result<u64, NotApplied>) -> Told {
    match edited {
        Ok(index) => {
            front.sync();
            told(200, json!({ "index": index }))
        }
        Err(why) => not_applied(&why),
    }
}

async fn apply(front: &Front, asked: &Asked<'_>) -> Told {
    let flag = |name: &str| asked.query.split('&').any(|part| part == name || part.starts_with(&format!("{name}=")));
    let Ok(text) = std::str::from_utf8(asked.body) else {
        return error(422, "the body is not UTF-8");
    };
    let read = if asked.is_json {
        match serde_json::from_str::<Value>(text) {
            Ok(value) => read_tables(&Node::from_json(&value)),
            Err(why) => return error(422, format!("the body is not JSON: {why}")),
        }
    } else {
        read_toml(text)
    };
    let documents = match read {
        Ok(documents) => documents,
        Err(all) => return wrongs(&all),
    };
    let replaces = flag("replace");
    let named: BTreeSet<String> = documents.iter().map(Document::key).collect();
    let edits = |before: &[Document]| {
        let gone = before.iter().filter(|old| replaces && !named.contains(&old.key()));
        let gone = gone.map(|old| Edit::Remove(old.kind(), old.name.clone()));
        Ok(gone.chain(documents.iter().cloned().map(Edit::Put)).collect())
    };
    if flag("check") {
        return match front.documents.check(edits) {
            Ok(changes) => told(200, json!({ "changes": changes })),
            Err(why) => not_applied(&why),
        };
    }
    done(front, front.documents.edit(asked.expected, edits).await)
}

/// JSON merge patch (RFC 7396 §2).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(table) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            table.remove(key);
        } else {
            merge(table.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// From one generation of [`Recent`] to the next: what is called recent came in the last one to two of these.
const RECENT: base::Duration = base::Duration::from_secs(5);
/// Beyond so many routes and upstreams nothing is remembered of the last seconds.
const RECENT_MAX: usize = 2_000;

/// Latencies as they were some seconds ago, so that a p99 can be told of the last seconds rather than since the start.
#[derive(Debug, Default)]
pub struct Recent {
    taken: Option<base::Instant>,
    older: BTreeMap<String, Counts>,
    newer: BTreeMap<String, Counts>,
}

impl Recent {
    fn turn(&mut self, snapshot: &Snapshot, now: base::Instant) {
        let age = self.taken.map_or(base::Duration::MAX, |taken| now.since(taken));
        if age < RECENT || snapshot.routes.len() + snapshot.upstreams.len() > RECENT_MAX {
            return;
        }
        let routes = snapshot.routes.iter().map(|route| (format!("route {}", route.name), route.latency.clone()));
        let upstreams = snapshot.upstreams.iter().map(|up| (format!("upstream {}", up.name), up.latency.clone()));
        let before = std::mem::replace(&mut self.newer, routes.chain(upstreams).collect());
        // Nobody has asked for long: what was then is not recent.
        self.older = if age > RECENT + RECENT { self.newer.clone() } else { before };
        self.taken = Some(now);
    }

    fn since(&self, kind: Kind, name: &str, now: &Counts) -> Counts {
        self.older.get(&format!("{} {name}", kind.word())).map_or_else(|| now.clone(), |older| now.since(older))
    }
}

/// The front door as it is now, for the console and `quorate route`.
pub fn look(front: &Front) -> Value {
    let snapshot = front.snapshot();
    let config = front.gateway.config();
    let weights: BTreeMap<&str, Vec<u32>> = config
        .routes()
        .iter()
        .map(|route| (&*route.name, route.document.to.iter().map(|target| target.weight).collect()))
        .collect();
    let mut recent = front.recent.lock();
    recent.turn(&snapshot, crate::clock::now());
    let millis = |duration: base::Duration| duration.as_micros() as f64 / 1000.0;
    let routes = snapshot.routes.iter().map(|route| {
        let lately = recent.since(Kind::Route, &route.name, &route.latency);
        json!({
            "name": route.name,
            "targets": route.targets,
            "weights": weights.get(route.name.as_str()),
            "recent_p50_ms": lately.quantile(0.5).map(millis),
            "recent_p99_ms": lately.quantile(0.99).map(millis),
            "requests_total": route.requests,
            "answers_total": route.answers,
            "own_answers_total": route.own,
            "limited_total": route.limited,
            "refused_total": route.refused,
            "in_flight": route.in_flight,
            "waiting": route.waiting,
            "p50_ms": route.latency.quantile(0.5).map(millis),
            "p99_ms": route.latency.quantile(0.99).map(millis),
        })
    });
    let upstreams = snapshot.upstreams.iter().map(|upstream| {
        let endpoints = upstream.endpoints.iter().map(|endpoint| {
            json!({
                "name": endpoint.name,
                "address": endpoint.address,
                "zone": endpoint.zone,
                "weight": endpoint.weight,
                "health": format!("{:?}", endpoint.health).to_lowercase(),
                "ejected": endpoint.ejected,
                "in_flight": endpoint.in_flight,
                "requests_total": endpoint.requests,
                "failures_total": endpoint.failures,
                "latency_ms": millis(endpoint.latency),
            })
        });
        let lately = recent.since(Kind::Upstream, &upstream.name, &upstream.latency);
        json!({
            "name": upstream.name,
            "recent_p50_ms": lately.quantile(0.5).map(millis),
            "recent_p99_ms": lately.quantile(0.99).map(millis),
            "balance": format!("{:?}", upstream.balance),
            "service": upstream.service,
            "endpoints": endpoints.collect::<Vec<_>>(),
            "usable": upstream.usable,
            "in_panic": upstream.in_panic,
            "breaker": format!("{:?}", upstream.breaker),
            "failure_rate": upstream.failure_rate,
            "retries_left": upstream.retries_left,
            "in_flight": upstream.in_flight,
            "requests_total": upstream.requests,
            "failures_total": upstream.failures,
            "retries_total": upstream.retries,
            "p50_ms": upstream.latency.quantile(0.5).map(millis),
            "p99_ms": upstream.latency.quantile(0.99).map(millis),
        })
    });
    let listeners = front.listening().into_iter().map(|(name, address)| json!({ "name": name, "address": address }));
    let troubles = front.troubles().into_iter().map(|(about, what)| json!({ "about": about, "what": what }));
    json!({
        "listeners": listeners.collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "upstreams": upstreams.collect::<Vec<_>>(),
        "in_flight": snapshot.in_flight,
        "own_answers_total": snapshot.own,
        "unrouted_total": snapshot.unrouted,
        "bad_total": snapshot.bad,
        "shed_total": snapshot.shed,
        "access_log_dropped_total": front.access.dropped(),
        "troubles": troubles.collect::<Vec<_>>(),
    })
}

/// The front door as it is now, for `/metrics`.
pub fn metrics(front: &Front) -> doors::admin::front::Front {
    use doors::admin::front as plain;
    let snapshot = front.snapshot();
    let routes = snapshot.routes.into_iter().map(|route| plain::Route {
        name: route.name,
        requests_total: route.requests,
        answers_total: route.answers,
        own_answers_total: route.own,
        limited_total: route.limited,
        refused_total: route.refused,
        in_flight: route.in_flight.into(),
        waiting: route.waiting.into(),
        latency: route.latency,
    });
    let endpoint = |one: ::gateway::live::EndpointLook| plain::Endpoint {
        name: one.name,
        is_up: one.health == Health::Passing && !one.ejected,
        is_ejected: one.ejected,
        requests_total: one.requests,
        failures_total: one.failures,
        in_flight: one.in_flight.into(),
    };
    let upstreams = snapshot.upstreams.into_iter().map(|upstream| plain::Upstream {
        name: upstream.name,
        endpoints: upstream.endpoints.into_iter().map(endpoint).collect(),
        usable: upstream.usable as u64,
        breaker: match upstream.breaker {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half_open",
        },
        requests_total: upstream.requests,
        failures_total: upstream.failures,
        retries_total: upstream.retries,
        retries_left: upstream.retries_left,
        in_flight: upstream.in_flight.into(),
        latency: upstream.latency,
    });
    plain::Front {
        routes: routes.collect(),
        upstreams: upstreams.collect(),
        in_flight: snapshot.in_flight,
        own_answers_total: snapshot.own,
        unrouted_total: snapshot.unrouted,
        bad_total: snapshot.bad,
        shed_total: snapshot.shed,
        log_dropped_total: front.access.dropped(),
        troubles: front.troubles().len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_patch_sets_removes_and_goes_deep() {
        let mut value = json!({ "to": ["a"], "timeouts": { "total": "5s", "idle": "1s" }, "sticky": "client" });
        merge(&mut value, &json!({ "to": ["b"], "timeouts": { "idle": null }, "sticky": null, "priority": 3 }));
        assert_eq!(value, json!({ "to": ["b"], "timeouts": { "total": "5s" }, "priority": 3 }));
    }
}

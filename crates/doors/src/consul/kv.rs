//! `/v1/kv/…` and `/v1/txn`.

use std::collections::BTreeSet;

use discovery::change::{Change, KvOp, KvResult, Outcome, Verb};
use discovery::config::ConfigChange;
use discovery::form::Blob;
use discovery::limits::{KEY_BYTES_MAX, TXN_OPS_MAX, VALUE_BYTES_MAX};
use discovery::watch::Watch;
use serde_json::{Value, json};

use super::body::{self, Fields};
use super::query::{Query, decode};
use super::shape;
use super::{Door, Plan, Refused, Request, Response, bad, only};

/// The number that a lock yields: not Consul's.
pub(super) const FENCE: &str = "x-quorate-fence";

impl Door {
    pub(super) fn kv(&self, path: &str, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["GET", "PUT", "DELETE"])?;
        let key = decode(path, false).ok_or_else(|| bad("the key is not UTF-8"))?;
        if key.len() > KEY_BYTES_MAX {
            return Err(bad(format!("the key is {} bytes long, at most {KEY_BYTES_MAX} are taken", key.len())));
        }
        let is_tree = query.has("recurse") && request.method != "PUT";
        if key.is_empty() && !is_tree && !query.has("keys") {
            return Err(bad("Missing key name"));
        }
        match request.method {
            "GET" if query.has("keys") => self.kv_keys(key, request, query),
            "GET" => self.kv_get(key, is_tree, request, query),
            "PUT" => self.kv_put(key, request, query),
            _ => self.kv_delete(key, is_tree, request, query),
        }
    }

    fn kv_get(&self, key: String, is_tree: bool, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        let is_pretty = query.is_pretty();
        if is_tree {
            return self.read(request, query, Watch::Prefix(key.clone()), move |catalog| {
                let found: Vec<_> = catalog.keys_under(&key).map(|(key, entry)| shape::kv(key, entry)).collect();
                if found.is_empty() { Response::text(404, "") } else { Response::json(&found, is_pretty) }
            });
        }
        let is_raw = query.has("raw");
        self.read(request, query, Watch::Key(key.clone()), move |catalog| match catalog.key(&key) {
            None => Response::text(404, ""),
            Some(entry) if is_raw => Response {
                status: 200,
                kind: "text/plain",
                // The value is anybody's: no browser may take it for a page.
                headers: vec![
                    ("x-content-type-options", "nosniff".into()),
                    ("content-security-policy", "sandbox".into()),
                ],
                body: entry.value.0.clone(),
            },
            Some(entry) => Response::json(&[shape::kv(&key, entry)], is_pretty),
        })
    }

    fn kv_keys(&self, prefix: String, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        // Consul takes its own old misspelling too.
        let separator = query.get("separator").or(query.get("seperator")).unwrap_or_default().to_owned();
        let is_pretty = query.is_pretty();
        self.read(request, query, Watch::Prefix(prefix.clone()), move |catalog| {
            let group = |key: &str| {
                let behind = &key[prefix.len()..];
                match behind.find(&separator).filter(|_| !separator.is_empty()) {
                    Some(at) => key[..prefix.len() + at + separator.len()].to_owned(),
                    None => key.to_owned(),
                }
            };
            let found: BTreeSet<String> = catalog.keys_under(&prefix).map(|(key, _)| group(key)).collect();
            if found.is_empty() && !prefix.is_empty() {
                return Response::text(404, "");
            }
            Response::json(&found, is_pretty)
        })
    }

    fn kv_put(&self, key: String, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        conflicting(query, &["cas", "acquire", "release"])?;
        if request.body.len() > VALUE_BYTES_MAX {
            let why =
                format!("Request body({} bytes) too large, max size: {VALUE_BYTES_MAX} bytes.", request.body.len());
            return Err(Response::text(413, why));
        }
        let cas = query.number("cas")?;
        let verb = match (cas, query.has("acquire"), query.has("release")) {
            (Some(_), ..) => Verb::Cas,
            (_, true, _) => Verb::Lock,
            (_, _, true) => Verb::Unlock,
            _ => Verb::Set,
        };
        let session = query.get("acquire").or(query.get("release")).unwrap_or_default().to_owned();
        let flags = query.number("flags")?.unwrap_or(0);
        let value = Blob(request.body.to_vec());
        self.one(KvOp { verb, key, value, flags, index: cas.unwrap_or(0), session }, request)
    }

    fn kv_delete(&self, key: String, is_tree: bool, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        conflicting(query, &["recurse", "cas"])?;
        let cas = query.number("cas")?;
        let verb = match (is_tree, cas) {
            (true, _) => Verb::DeleteTree,
            (_, Some(_)) => Verb::DeleteCas,
            _ => Verb::Delete,
        };
        let value = Blob::default();
        self.one(KvOp { verb, key, value, flags: 0, index: cas.unwrap_or(0), session: String::new() }, request)
    }

    /// One operation, answered by whether it was done.
    fn one(&self, op: KvOp, request: &Request<'_>) -> Result<Plan, Refused> {
        // As Consul says that a session is not there.
        let wrong = if op.verb.has_session() { 500 } else { 400 };
        Ok(self.write(self.by(vec![op], request), move |outcome| match outcome {
            Outcome::KvFailed(failures) => match failures.first() {
                Some(failure) if !failure.stale => Response::text(wrong, failure.why.clone()),
                _ => Response::json(&false, false),
            },
            Outcome::Kv(results) => {
                let lock = results.first().and_then(|result| result.entry.as_ref()?.lock.as_ref());
                let fence = lock.map(|lock| (FENCE, lock.fence.to_string()));
                Response { headers: fence.into_iter().collect(), ..Response::json(&true, false) }
            }
            _ => Response::json(&true, false),
        }))
    }

    pub(super) fn txn(&self, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["PUT"])?;
        let value = body::parse(request.body)?;
        let given = value.as_array().ok_or_else(|| bad("Failed to parse body: a list of operations is wanted"))?;
        if given.len() > TXN_OPS_MAX {
            let why = format!("Transaction contains too many operations ({} > {TXN_OPS_MAX})", given.len());
            return Err(Response::text(413, why));
        }
        let ops: Vec<KvOp> = given.iter().map(operation).collect::<Result<_, _>>()?;
        let is_pretty = query.is_pretty();
        if ops.iter().all(|op| op.verb.is_read()) {
            // Nothing that it could wait for: it is answered once the catalog is as fresh as the query wants it.
            let own = Query::default();
            let query = if query.has("index") || query.has("hash") { &own } else { query };
            let tell = move |catalog: &discovery::Catalog| told(catalog.kv_read(&ops), is_pretty);
            return self.read(request, query, Watch::Everything, tell);
        }
        Ok(self.write(self.by(ops, request), move |outcome| told(outcome, is_pretty)))
    }

    /// The change that these operations are: where they touch configuration it says who asks.
    fn by(&self, ops: Vec<KvOp>, request: &Request<'_>) -> Change {
        if !self.registry.read().config().concerns(&ops) {
            return Change::Kv(ops);
        }
        Change::Config(ConfigChange::By { who: format!("consul {}", request.from).trim_end().to_owned(), ops })
    }
}

fn told(outcome: Outcome, is_pretty: bool) -> Response {
    match outcome {
        Outcome::Kv(results) => {
            let results: Vec<Value> = results.iter().map(result).collect();
            Response::json(&json!({"Results": results, "Errors": null}), is_pretty)
        }
        Outcome::KvFailed(failures) => {
            let errors: Vec<Value> =
                failures.iter().map(|failure| json!({"OpIndex": failure.op, "What": failure.why})).collect();
            let shown = json!({"Results": null, "Errors": errors});
            Response { status: 409, ..Response::json(&shown, is_pretty) }
        }
        Outcome::Refused(_, why) => bad(why),
        _ => Response::text(500, "an outcome of another kind"),
    }
}

fn result(result: &KvResult) -> Value {
    match &result.entry {
        None => {
            json!({"KV": {"Key": result.key, "Value": null, "Flags": 0, "LockIndex": 0, "CreateIndex": 0, "ModifyIndex": 0}})
        }
        Some(entry) => json!({"KV": shape::kv(&result.key, entry)}),
    }
}

fn operation(value: &Value) -> Result<KvOp, Refused> {
    let fields = Fields::of(value).ok_or_else(|| bad("Failed to parse body: an operation is an object"))?;
    let wrong = |why: String| bad(format!("Failed to parse body: {why}"));
    let Some(kv) = fields.object("KV").map_err(wrong)? else {
        return Err(bad("Failed to parse body: only KV operations are available in quorate's transactions"));
    };
    let word = kv.text("Verb").map_err(wrong)?;
    let verb = Verb::from_word(&word).ok_or_else(|| bad(format!("unknown KV verb {word:?}")))?;
    let key = kv.text("Key").map_err(wrong)?;
    let value = shape::unbase64(&kv.text("Value").map_err(wrong)?)
        .ok_or_else(|| bad("Failed to parse body: failed to decode value: illegal base64 data"))?;
    if value.len() > VALUE_BYTES_MAX {
        let why = format!("Value for key {key:?} is too large ({} > {VALUE_BYTES_MAX} bytes)", value.len());
        return Err(Response::text(413, why));
    }
    let flags = kv.number("Flags", u64::MAX).map_err(wrong)?;
    let index = kv.number("Index", u64::MAX).map_err(wrong)?;
    let session = kv.text("Session").map_err(wrong)?;
    Ok(KvOp { verb, key, value: Blob(value), flags, index, session })
}

fn conflicting(query: &Query, names: &[&str]) -> Result<(), Refused> {
    let given: Vec<&str> = names.iter().copied().filter(|name| query.has(name)).collect();
    if given.len() > 1 { Err(bad(format!("Conflicting flags: {}\n", given.join("&")))) } else { Ok(()) }
}

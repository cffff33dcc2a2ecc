//! `/v1/session/…`: what holds locks on keys.

use base::Duration;
use discovery::change::{Change, Outcome};
use discovery::session::{Behavior, SessionChange, SessionForm};
use discovery::watch::Watch;
use serde_json::{Value, json};

use super::body::{self, Fields};
use super::query::{self, Query, segment};
use super::shape;
use super::{Door, Plan, Refused, Request, Response, bad, only};

/// The check that every node has.
const ALIVE: &str = "serfHealth";
/// How long a key may not be locked after its session has lost it, unless told.
const LOCK_DELAY: Duration = Duration::from_secs(15);
/// A lock delay below so many nanoseconds was meant in seconds, as in Consul.
const MEANT_SECONDS_BELOW: u64 = 1000;

/// A random UUID (RFC 9562 §5.4) of these bits.
pub fn uuid(high: u64, low: u64) -> String {
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        0x8000 | (low >> 48 & 0x3fff),
        low & 0xffff_ffff_ffff
    )
}

impl Door {
    pub(super) fn session(&self, path: &str, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        let (word, rest) = path.split_once('/').unwrap_or((path, ""));
        let rest = segment(rest)?;
        let is_pretty = query.is_pretty();
        let named = |what: &str| if rest.is_empty() { Err(bad(format!("Missing {what}"))) } else { Ok(rest.clone()) };
        match word {
            "create" if rest.is_empty() => {
                only(request, &["PUT"])?;
                let form = self.session_form(request)?;
                Ok(self.session_change(SessionChange::Create(form), move |outcome| match outcome {
                    Outcome::Session(session) => Response::json(&json!({"ID": session.form.id}), is_pretty),
                    _ => Response::text(500, "an outcome of another kind"),
                }))
            }
            "destroy" => {
                only(request, &["PUT"])?;
                let change = SessionChange::Destroy { id: named("session")? };
                Ok(self.session_change(change, move |_| Response::json(&true, is_pretty)))
            }
            "renew" => {
                only(request, &["PUT"])?;
                let change = SessionChange::Renew { id: named("session")? };
                Ok(self.session_change(change, move |outcome| match outcome {
                    Outcome::Session(session) => Response::json(&[shape::session(&session)], is_pretty),
                    _ => Response::text(500, "an outcome of another kind"),
                }))
            }
            "info" => {
                only(request, &["GET"])?;
                let id = named("session")?;
                self.read(request, query, Watch::Sessions, move |catalog| {
                    Response::json(&catalog.session(&id).map(shape::session).as_slice(), is_pretty)
                })
            }
            "node" => {
                only(request, &["GET"])?;
                let node = named("node name")?;
                self.read(request, query, Watch::Sessions, move |catalog| {
                    Response::json(&catalog.sessions_on(&node).map(shape::session).collect::<Vec<_>>(), is_pretty)
                })
            }
            "list" if rest.is_empty() => {
                only(request, &["GET"])?;
                self.read(request, query, Watch::Sessions, move |catalog| {
                    Response::json(&catalog.sessions().map(shape::session).collect::<Vec<_>>(), is_pretty)
                })
            }
            _ => Err(Response::text(404, "Invalid URL path: not a recognized HTTP API endpoint")),
        }
    }

    /// What a session cannot be, Consul answers as an error of its own (500), and so does this: clients look for that.
    fn session_change(&self, change: SessionChange, then: impl FnOnce(Outcome) -> Response + Send + 'static) -> Plan {
        let mut plan = self.write(Change::Session(change), then);
        if let Plan::Write(write) = &mut plan {
            write.invalid = 500;
        }
        plan
    }

    fn session_form(&self, request: &Request<'_>) -> Result<SessionForm, Refused> {
        let wrong = |why: String| bad(format!("Request decode failed: {why}"));
        let value =
            if request.body.is_empty() { Value::Object(Default::default()) } else { body::parse(request.body)? };
        let fields = Fields::of(&value).ok_or_else(|| wrong("an object is wanted".into()))?;
        let node = Some(fields.text("Node").map_err(wrong)?).filter(|node| !node.is_empty());
        // A list that is given replaces the one check that stands for the node, even an empty one.
        let lists = ["NodeChecks", "Checks"].into_iter().filter(|name| fields.names(name));
        let mut node_checks = Vec::new();
        let mut is_given = false;
        for name in lists {
            is_given = true;
            node_checks.extend(fields.texts(name).map_err(wrong)?);
        }
        if !is_given {
            node_checks.push(ALIVE.to_owned());
        }
        node_checks.sort();
        node_checks.dedup();
        let mut service_checks = Vec::new();
        for check in fields.list("ServiceChecks").map_err(wrong)? {
            let check = Fields::of(check).ok_or_else(|| wrong("ServiceChecks wants objects".into()))?;
            service_checks.push(check.text("ID").map_err(wrong)?);
        }
        let behavior = match fields.text("Behavior").map_err(wrong)?.as_str() {
            "" | "release" => Behavior::Release,
            "delete" => Behavior::Delete,
            other => return Err(Response::text(500, format!("Invalid Behavior setting '{other}'"))),
        };
        let ttl = fields.text("TTL").map_err(wrong)?;
        let span = match ttl.as_str() {
            "" => Duration::ZERO,
            text => {
                query::span(text).map_err(|why| Response::text(500, format!("Session TTL '{text}' invalid: {why}")))?
            }
        };
        Ok(SessionForm {
            id: uuid(request.random, request.more_random),
            name: fields.text("Name").map_err(wrong)?,
            node: node.unwrap_or_else(|| self.facts.name.clone()),
            node_checks,
            service_checks,
            lock_delay_ns: lock_delay(&fields).map_err(wrong)?,
            behavior,
            ttl,
            // Rounded up: what is not 0 must not become it.
            ttl_ms: span.as_nanos().div_ceil(1_000_000) as u64,
        })
    }
}

fn lock_delay(fields: &Fields<'_>) -> Result<u64, String> {
    let given = match fields.get("LockDelay") {
        None => return Ok(LOCK_DELAY.as_nanos() as u64),
        Some(Value::String(text)) => query::span(text)?,
        Some(Value::Number(number)) => {
            let nanoseconds = number.as_f64().filter(|number| *number >= 0.0);
            Duration::from_nanos(nanoseconds.ok_or("LockDelay wants a span, as \"15s\"")? as u64)
        }
        Some(_) => return Err("LockDelay wants a span, as \"15s\"".into()),
    };
    let nanoseconds = u64::try_from(given.as_nanos()).unwrap_or(u64::MAX);
    Ok(if nanoseconds < MEANT_SECONDS_BELOW { nanoseconds * 1_000_000_000 } else { nanoseconds })
}

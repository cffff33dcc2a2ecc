//! The Consul door: the HTTP API of a Consul agent over the registry, decoded and encoded.
//!
//! ```text
//!   request ─► Door::plan ─┬─► Answer(response)
//!                          ├─► Read: polled after every change of the catalog until its deadline (blocking queries)
//!                          └─► Write: a change for the log, and how its outcome is told
//! ```
//!
//! What clients see is Consul's: paths, parameters, field names, indexes, error texts where clients read them. What Consul
//! has and this does not (events, ACLs, prepared queries, Connect) answers with an error that says so. Script
//! checks are absent on purpose: whoever may register must not thereby run programs here.
//!
//! Knows nothing about sockets, clocks, threads or files.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{Duration, Instant};
use discovery::Catalog;
use discovery::change::{Change, Outcome, Refusal};
use discovery::check::Runner;
use discovery::watch::{Waiting, Watch};
use parking_lot::Mutex;
use serde::Serialize;

use crate::access;
use crate::registry::{ChangeError, Registry};
use crate::secret::Secret;

mod agent;
mod body;
mod catalog;
mod declare;
mod filter;
mod kv;
mod query;
mod session;
mod shape;

pub use body::{Declared, declared_service};
pub use declare::{SOURCE, declaration};
use filter::Filter;
use query::Query;
pub use session::uuid;

/// Bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a blocking query waits where it does not say, and at most.
pub const WAIT: Duration = Duration::from_secs(300);
/// See [`WAIT`].
pub const WAIT_MAX: Duration = Duration::from_secs(600);

/// What the door tells of its node.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// The node's name in the registry.
    pub name: String,
    /// A UUID that stays.
    pub id: String,
    /// The address under which others reach its services.
    pub address: String,
    /// The datacenter's name.
    pub datacenter: String,
    /// Where the door listens.
    pub door: String,
    /// Quorate's version.
    pub version: String,
}

/// The door.
pub struct Door {
    /// The registry.
    pub registry: Arc<Registry>,
    /// This node's checks. Locked after the catalog, never before it.
    pub checks: Arc<Mutex<Runner>>,
    /// See [`NodeFacts`].
    pub facts: NodeFacts,
    /// What a client must show, or else `USER:PASSWORD` of who may do everything (ACL SETUSER); `None` lets everybody in.
    pub token: Option<Secret>,
}

/// A request, its body complete.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `GET`, `PUT`, …
    pub method: &'a str,
    /// The path as it came, percent-encoded.
    pub path: &'a str,
    /// The query as it came, without `?`.
    pub query: &'a str,
    /// `X-Consul-Token`, or the bearer of `Authorization`.
    pub token: Option<&'a str>,
    /// `X-Consul-Namespace`.
    pub namespace: Option<&'a str>,
    /// `X-Consul-Partition`.
    pub partition: Option<&'a str>,
    /// From where it comes, for what is remembered of changes of configuration; empty where that is not known.
    pub from: &'a str,
    /// The body.
    pub body: &'a [u8],
    /// Now.
    pub now: Instant,
    /// Random bits, for the jitter of waits.
    pub random: u64,
    /// More of them: with those, the name of a new session.
    pub more_random: u64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub kind: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// The hash of an answer, by which clients wait for another one.
const CONTENT_HASH: &str = "x-consul-contenthash";
/// JSON.
const JSON: &str = "application/json";
/// Text.
const TEXT: &str = "text/plain; charset=utf-8";

impl Response {
    fn text(status: u16, text: impl Into<String>) -> Response {
        Response { status, kind: TEXT, headers: Vec::new(), body: text.into().into_bytes() }
    }

    fn json<T: Serialize + ?Sized>(value: &T, is_pretty: bool) -> Response {
        let written = if is_pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
        let mut body = written.expect("our shapes have text keys and finite numbers");
        if is_pretty {
            body.push(b'\n');
        }
        Response { status: 200, kind: JSON, headers: Vec::new(), body }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_str())
    }

    fn empty() -> Response {
        Response { status: 200, kind: TEXT, headers: Vec::new(), body: Vec::new() }
    }

    /// The answer to a client without the right token.
    pub fn forbidden() -> Response {
        Response::text(403, "Permission denied: token with sufficient rights is needed (X-Consul-Token)")
    }
}

/// What is to be done with a request.
#[allow(clippy::large_enum_variant)]
pub enum Plan {
    /// It is answered.
    Answer(Response),
    /// It reads, perhaps later.
    Read(Read),
    /// It changes something.
    Write(Write),
}

type Render = Box<dyn Fn(&Catalog) -> Response + Send + Sync>;

/// What a node knows of who leads the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Whether somebody does.
    pub is_known: bool,
    /// Milliseconds since it was heard of; 0 at the leader itself.
    pub silent_ms: u64,
}

/// A query, perhaps a blocking one.
pub struct Read {
    waiting: Waiting,
    /// Until when it waits for a change; `None` where it does not.
    deadline: Option<Instant>,
    consistency: &'static str,
    /// What this node knows of the leader.
    contact: Contact,
    /// The hash of what the client has: it waits while that is still the answer's.
    hash: Option<String>,
    render: Render,
}

impl Read {
    /// The answer, if there is one now; else the query is to be polled again after a change, and at its deadline.
    pub fn poll(&mut self, catalog: &Catalog, now: Instant) -> Option<Response> {
        let is_over = self.waiting.is_over(catalog);
        let may_wait = self.deadline.is_some_and(|deadline| now < deadline);
        if !is_over && may_wait {
            return None;
        }
        let mut response = (self.render)(catalog);
        if may_wait && self.hash.is_some() && self.hash.as_deref() == response.header(CONTENT_HASH) {
            self.waiting.restart(catalog);
            return None;
        }
        let index = self.waiting.index(catalog);
        response.headers.extend([
            ("x-consul-index", index.to_string()),
            ("x-consul-knownleader", self.contact.is_known.to_string()),
            ("x-consul-lastcontact", self.contact.silent_ms.to_string()),
            ("x-consul-effective-consistency", self.consistency.into()),
        ]);
        Some(response)
    }

    /// Whether it may be answered by what this node has, however old that is. Any other waits for
    /// [`Registry::fresh`] before it is polled.
    pub fn is_stale(&self) -> bool {
        self.consistency == "stale"
    }

    /// What this node knows of the leader, if that is not all well.
    pub fn set_contact(&mut self, contact: Contact) {
        self.contact = contact;
    }

    /// The answer where there is no leader to ask.
    pub fn leaderless() -> Response {
        Response::text(500, "No cluster leader")
    }

    /// What it waits for.
    pub fn waiting(&mut self) -> &mut Waiting {
        &mut self.waiting
    }

    /// Has it answered by the next poll, whatever has come.
    pub fn give_up(&mut self) {
        self.deadline = Some(Instant::default());
    }

    /// Until when it waits.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

type Then = Box<dyn FnOnce(Outcome) -> Response + Send>;

/// A change, and how its outcome is told.
pub struct Write {
    /// For [`Registry::change`].
    pub change: Change,
    then: Then,
    /// Whether it is done where there was nothing to do.
    is_idempotent: bool,
    /// The status for what is not well formed.
    invalid: u16,
}

impl Write {
    /// The answer.
    pub fn finish(self, outcome: Result<Outcome, ChangeError>) -> Response {
        match outcome {
            Ok(Outcome::Refused(Refusal::Unknown, _)) if self.is_idempotent => (self.then)(Outcome::Done(0)),
            Ok(Outcome::Refused(Refusal::Unknown, why)) => Response::text(404, why),
            Ok(Outcome::Refused(Refusal::Invalid, why)) => Response::text(self.invalid, why),
            Ok(Outcome::Refused(Refusal::Full, why)) => Response::text(500, why),
            Ok(outcome) => (self.then)(outcome),
            Err(ChangeError::Refused(why)) => Response::text(503, format!("nothing was changed: {why}")),
            Err(ChangeError::Unknown) => {
                Response::text(500, "it is unknown whether the change was made: look before you try again")
            }
        }
    }
}

/// A request that cannot be: its answer.
type Refused = Response;

fn bad(text: impl Into<String>) -> Refused {
    Response::text(400, text)
}

impl Door {
    /// Whether a request with this token is let in. Takes as long for a wrong token as for the right one.
    fn admits(&self, shown: Option<&str>) -> bool {
        let Some(token) = &self.token else { return true };
        let shown = shown.unwrap_or("");
        token.matches(shown.as_bytes())
            || shown.split_once(':').is_some_and(|(name, password)| {
                let users = self.registry.shard().state().users().clone();
                access::is_administrator(&users, name, password)
            })
    }

    /// What is to be done with a request.
    pub fn plan(&self, request: &Request<'_>) -> Plan {
        let query = match Query::new(request.query) {
            Ok(query) => query,
            Err(why) => return Plan::Answer(bad(why)),
        };
        if !self.admits(request.token.or(query.get("token"))) {
            return Plan::Answer(Response::forbidden());
        }
        self.route(request, &query).unwrap_or_else(Plan::Answer)
    }

    fn route(&self, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        let Some(rest) = request.path.strip_prefix("/v1/") else {
            return match request.path {
                "/" | "/ui" | "/ui/" => Ok(Plan::Answer(Response::text(
                    200,
                    "The Consul door of quorate: the HTTP API is below /v1/, as /v1/catalog/services\n",
                ))),
                _ => Err(Response::text(404, "Invalid URL path: not a recognized HTTP API endpoint")),
            };
        };
        if let Some(other) = query.get("dc").filter(|dc| !dc.is_empty() && *dc != self.facts.datacenter) {
            return Err(Response::text(500, format!("No path to datacenter: {other:?}")));
        }
        only_default(request, query)?;
        let (room, path) = rest.split_once('/').unwrap_or((rest, ""));
        match room {
            "agent" => self.agent(path, request, query),
            "catalog" => self.catalog(path, request, query),
            "health" => self.health(path, request, query),
            "kv" => self.kv(path, request, query),
            "session" => self.session(path, request, query),
            "txn" => self.txn(request, query),
            "status" => self.status(path, request, query),
            "acl" => Err(Response::text(401, "ACL support disabled")),
            _ => match ABSENT.iter().find(|(name, _)| *name == room) {
                Some((_, what)) => Err(Response::text(501, format!("{what} not available in quorate"))),
                None => Err(Response::text(404, "Invalid URL path: not a recognized HTTP API endpoint")),
            },
        }
    }

    fn status(&self, path: &str, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["GET"])?;
        match path {
            "leader" => Ok(Plan::Answer(Response::json(&self.leader(), query.is_pretty()))),
            "peers" => Ok(Plan::Answer(Response::json(&self.peers(), query.is_pretty()))),
            _ => Err(Response::text(404, "Invalid URL path: not a recognized HTTP API endpoint")),
        }
    }

    /// Where the node listens that leads the registry; empty where that is not known.
    fn leader(&self) -> String {
        let cluster = self.registry.cluster();
        if cluster.is_empty() {
            return self.facts.door.clone();
        }
        let leader = self.registry.leader().and_then(|leader| cluster.nodes().get(&leader));
        leader.map(|node| node.place.peer.clone()).unwrap_or_default()
    }

    /// Where all nodes listen.
    fn peers(&self) -> Vec<String> {
        let cluster = self.registry.cluster();
        if cluster.is_empty() {
            return vec![self.facts.door.clone()];
        }
        cluster.nodes().values().map(|node| node.place.peer.clone()).collect()
    }

    /// A query over what is watched.
    fn read(
        &self,
        request: &Request<'_>,
        query: &Query,
        watch: Watch,
        render: impl Fn(&Catalog) -> Response + Send + Sync + 'static,
    ) -> Result<Plan, Refused> {
        let after = match query.get("index") {
            None | Some("") => 0,
            Some(index) => index.parse().map_err(|_| bad("Invalid index"))?,
        };
        let wait = match query.get("wait") {
            None | Some("") => WAIT,
            Some(span) => query::span(span).map_err(|_| bad("Invalid wait time"))?,
        };
        if query.has("stale") && query.has("consistent") {
            return Err(bad("Cannot specify ?stale with ?consistent, conflicting semantics."));
        }
        let wait = if wait.is_zero() { WAIT } else { wait.min(WAIT_MAX) };
        // Spread, so that those who came together do not ask again together.
        let jitter = wait.as_nanos() as u64 / 16;
        let jitter = if jitter == 0 { 0 } else { request.random % jitter };
        let hash = query.get("hash").filter(|hash| !hash.is_empty()).map(str::to_owned);
        if hash.is_some() && after > 0 {
            return Err(bad("Cannot wait by index and by hash at the same time"));
        }
        let waits = after > 0 || hash.is_some();
        let deadline = waits.then_some(request.now + wait + Duration::from_nanos(jitter));
        let consistency = match (query.has("stale"), query.has("consistent")) {
            (true, _) => "stale",
            (_, true) => "consistent",
            _ => "leader",
        };
        Ok(Plan::Read(Read {
            waiting: Waiting::new(watch, after),
            deadline,
            consistency,
            contact: Contact { is_known: true, silent_ms: 0 },
            hash,
            render: Box::new(render),
        }))
    }

    fn write(&self, change: Change, then: impl FnOnce(Outcome) -> Response + Send + 'static) -> Plan {
        Plan::Write(Write { change, then: Box::new(then), is_idempotent: false, invalid: 400 })
    }
}

/// What Consul has and this has not.
const ABSENT: &[(&str, &str)] = &[
    ("event", "user events are"),
    ("query", "prepared queries are"),
    ("connect", "the service mesh (Connect) is"),
    ("coordinate", "network coordinates are"),
    ("config", "configuration entries are"),
    ("discovery-chain", "the discovery chain is"),
    ("operator", "the operator API is"),
    ("snapshot", "Consul's snapshots are"),
    ("peering", "cluster peering is"),
    ("exported-services", "exported services are"),
    ("internal", "Consul's internal API is"),
    ("namespace", "namespaces are"),
    ("namespaces", "namespaces are"),
    ("partition", "partitions are"),
];

/// Refuses other methods than these, as Consul does.
fn only(request: &Request<'_>, methods: &[&str]) -> Result<(), Refused> {
    if methods.contains(&request.method) {
        return Ok(());
    }
    let mut response = Response::text(405, format!("method {} not allowed", request.method));
    response.headers.push(("allow", methods.join(",")));
    Err(response)
}

/// Consul without its enterprise licence has one namespace and one partition, and refuses to hear of others; so does this.
fn only_default(request: &Request<'_>, query: &Query) -> Result<(), Refused> {
    let named = |name: &str| query.get(name).is_some_and(|value| !value.is_empty());
    let refuse = |what: &str, name: &str, feature: &str| {
        Err(bad(format!("Invalid {what}: {name:?} - {feature} are a Consul Enterprise feature")))
    };
    if request.namespace.is_some_and(|name| !name.is_empty()) {
        return refuse("header", "X-Consul-Namespace", "Namespaces");
    }
    if request.partition.is_some_and(|name| !name.is_empty()) {
        return refuse("header", "X-Consul-Partition", "Partitions");
    }
    if named("ns") {
        return refuse("query parameter", "ns", "Namespaces");
    }
    if named("partition") {
        return refuse("query parameter", "partition", "Partitions");
    }
    for (name, what) in [("peer", "cluster peering is"), ("sg", "sameness groups are")] {
        if named(name) {
            return Err(Response::text(501, format!("{what} not available in quorate")));
        }
    }
    Ok(())
}

/// Items that the filter lets through, as a JSON list.
fn list<T: Serialize>(items: impl Iterator<Item = T>, filter: Option<&Filter>, is_pretty: bool) -> Response {
    let Some(filter) = filter else {
        return Response::json(&items.collect::<Vec<_>>(), is_pretty);
    };
    let mut kept = Vec::new();
    for item in items {
        let value = serde_json::to_value(&item).expect("our shapes are JSON");
        match filter.keeps(&value) {
            Ok(true) => kept.push(item),
            Ok(false) => {}
            Err(why) => return bad(format!("Failed to execute filter: {why}")),
        }
    }
    Response::json(&kept, is_pretty)
}

/// Items by name that the filter lets through, as a JSON object.
fn map<T: Serialize>(items: impl Iterator<Item = (String, T)>, filter: Option<&Filter>, is_pretty: bool) -> Response {
    let mut kept = BTreeMap::new();
    for (name, item) in items {
        let Some(filter) = filter else {
            kept.insert(name, item);
            continue;
        };
        let value = serde_json::to_value(&item).expect("our shapes are JSON");
        match filter.keeps(&value) {
            Ok(true) => {
                kept.insert(name, item);
            }
            Ok(false) => {}
            Err(why) => return bad(format!("Failed to execute filter: {why}")),
        }
    }
    Response::json(&kept, is_pretty)
}

#[cfg(test)]
mod tests;

//! `/v1/agent/…`: this node's services and checks.

use discovery::catalog::cut;
use discovery::change::{Change, Registered};
use discovery::check::TtlError;
use discovery::limits::OUTPUT_BYTES_MAX;
use discovery::model::{CheckForm, NodeForm, Status};
use discovery::watch::Watch;
use serde_json::json;

use super::body::{self, Declared, Fields};
use super::query::{Query, segment};
use super::shape::{self, NODE_MAINTENANCE, SERVICE_MAINTENANCE};
use super::{CONTENT_HASH, Door, Plan, Refused, Request, Response, bad, list, map, only};

impl Door {
    pub(super) fn agent(&self, path: &str, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["self"] => {
                only(request, &["GET"])?;
                Ok(Plan::Answer(self.agent_self(query.is_pretty())))
            }
            ["members"] => {
                only(request, &["GET"])?;
                self.members(request, query)
            }
            ["services"] => self.agent_services(request, query),
            ["checks"] => self.agent_checks(request, query),
            ["service", "register"] => self.register_service(request, query),
            ["service", "deregister", ..] => {
                only(request, &["PUT"])?;
                self.deregister(Registered::Service(segment(rest(path, 2))?))
            }
            ["service", "maintenance", ..] => self.maintenance(request, query, Some(&segment(rest(path, 2))?)),
            ["service", _, ..] => self.agent_service(&segment(rest(path, 1))?, request, query),
            ["maintenance"] => self.maintenance(request, query, None),
            ["check", "register"] => self.register_check(request),
            ["check", "deregister", ..] => {
                only(request, &["PUT"])?;
                self.deregister(Registered::Check(segment(rest(path, 2))?))
            }
            ["check", word @ ("pass" | "warn" | "fail" | "update"), ..] => {
                self.update_ttl(word, &segment(rest(path, 2))?, request, query)
            }
            ["health", "service", "id", ..] => self.agent_health(&segment(rest(path, 3))?, true, request, query),
            ["health", "service", "name", ..] => self.agent_health(&segment(rest(path, 3))?, false, request, query),
            [
                "host" | "metrics" | "monitor" | "reload" | "join" | "leave" | "force-leave" | "token" | "connect",
                ..,
            ] => Err(Response::text(501, format!("/v1/agent/{} is not available in quorate", parts[0]))),
            _ => Err(Response::text(404, "Invalid URL path: not a recognized HTTP API endpoint")),
        }
    }

    fn agent_self(&self, is_pretty: bool) -> Response {
        let facts = &self.facts;
        // Clients read Config.Datacenter, Config.NodeName and Member; the version is that of the API we speak.
        let version = format!("1.20.0+quorate.{}", facts.version);
        let config = json!({
            "Datacenter": facts.datacenter,
            "PrimaryDatacenter": facts.datacenter,
            "NodeName": facts.name,
            "NodeID": facts.id,
            "Partition": "",
            "Revision": "",
            "Server": true,
            "Version": version,
            "BuildDate": "1970-01-01T00:00:01Z",
        });
        let shown = json!({
            "Config": config,
            "DebugConfig": {},
            "Coord": null,
            "Member": member(&facts.datacenter, &facts.name, &facts.id, &facts.address, true),
            "Stats": {},
            "Meta": {},
        });
        Response::json(&shown, is_pretty)
    }

    /// The cluster's nodes, as the failure detector sees them.
    fn members(&self, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        let (facts, filter, is_pretty) = (self.facts.clone(), query.filter()?, query.is_pretty());
        self.read(request, query, Watch::Nodes, move |catalog| {
            let shown = catalog.nodes().filter_map(|node| {
                let alive = catalog.check_on(&node.form.name, ALIVE)?;
                let is_alive = alive.form.status != Status::Critical;
                Some(member(&facts.datacenter, &node.form.name, &node.form.id, &node.form.address, is_alive))
            });
            list(shown, filter.as_ref(), is_pretty)
        })
    }

    fn agent_services(&self, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["GET"])?;
        let (facts, filter, is_pretty) = (self.facts.clone(), query.filter()?, query.is_pretty());
        self.read(request, query, Watch::Node(facts.name.clone()), move |catalog| {
            let services = catalog.services_on(&facts.name);
            let shown =
                services.map(|one| (one.service.form.id.clone(), shape::agent_service(one.service, &facts.datacenter)));
            map(shown, filter.as_ref(), is_pretty)
        })
    }

    fn agent_service(&self, id: &str, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["GET"])?;
        let (facts, id, is_pretty) = (self.facts.clone(), id.to_owned(), query.is_pretty());
        self.read(request, query, Watch::Node(facts.name.clone()), move |catalog| {
            let Some(one) = catalog.service_on(&facts.name, &id) else {
                return Response::text(404, format!("unknown service ID: {id}"));
            };
            let mut shown = shape::agent_service(one.service, &facts.datacenter);
            let hash = shape::hash(&serde_json::to_vec(&shown).expect("our shapes are JSON"));
            shown.content_hash.clone_from(&hash);
            let mut response = Response::json(&shown, is_pretty);
            response.headers.push((CONTENT_HASH, hash));
            response
        })
    }

    fn agent_checks(&self, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["GET"])?;
        let (facts, filter, is_pretty) = (self.facts.clone(), query.filter()?, query.is_pretty());
        let checks = self.checks.clone();
        self.read(request, query, Watch::Node(facts.name.clone()), move |catalog| {
            let runner = checks.lock();
            let shown = catalog.checks_on(&facts.name).map(|check| {
                let mut shape = shape::check(catalog, check);
                // What the check said last: the catalog learns of output alone only now and then.
                if let Some((_, output)) = runner.output(&check.form.id) {
                    shape.output = output.to_owned().into();
                }
                (check.form.id.clone(), shape)
            });
            map(shown, filter.as_ref(), is_pretty)
        })
    }

    /// The aggregated health of instances of this node: 200, 429 or 503.
    fn agent_health(&self, name: &str, by_id: bool, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["GET"])?;
        let (facts, name, is_pretty) = (self.facts.clone(), name.to_owned(), query.is_pretty());
        let as_text = query.get("format") == Some("text");
        self.read(request, query, Watch::Node(facts.name.clone()), move |catalog| {
            let fits = |own: &str, service: &str| if by_id { own == name } else { service.eq_ignore_ascii_case(&name) };
            let found: Vec<_> = catalog
                .services_on(&facts.name)
                .filter(|one| fits(&one.service.form.id, &one.service.form.name))
                .collect();
            let Some(worst) = found.iter().map(|one| one.status()).max() else {
                let what = if by_id { "ServiceId" } else { "ServiceName" };
                return Response::text(404, format!("{what} {name} not found"));
            };
            let shown = |one: &discovery::query::Instance<'_>| {
                json!({
                    "AggregatedStatus": one.status().word(),
                    "Service": shape::agent_service(one.service, &facts.datacenter),
                    "Checks": one.checks().map(|check| shape::check(catalog, check)).collect::<Vec<_>>(),
                })
            };
            let mut response = if as_text {
                Response::text(200, worst.word())
            } else if by_id {
                Response::json(&shown(&found[0]), is_pretty)
            } else {
                Response::json(&found.iter().map(shown).collect::<Vec<_>>(), is_pretty)
            };
            response.status = match worst {
                Status::Passing => 200,
                Status::Warning => 429,
                Status::Critical => 503,
            };
            response
        })
    }

    // ---- changes ---------------------------------------------------------------------------------------------------

    /// Registers something on this node; the node itself is there already.
    fn on_this_node(&self) -> NodeForm {
        NodeForm { name: self.facts.name.clone(), address: self.facts.address.clone(), ..NodeForm::default() }
    }

    fn register_service(&self, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["PUT"])?;
        let value = body::parse(request.body)?;
        let Declared { service, checks } = body::declared_service(&value).map_err(bad)?;
        let replace_checks = query.flag("replace-existing-checks")?;
        let node = self.on_this_node();
        let change = Change::Register { node, keep_node: true, service: Some(service), checks, replace_checks };
        Ok(self.write(change, |_| Response::empty()))
    }

    fn register_check(&self, request: &Request<'_>) -> Result<Plan, Refused> {
        only(request, &["PUT"])?;
        let value = body::parse(request.body)?;
        let fields = Fields::of(&value).ok_or_else(|| bad("Request decode failed: a check is an object"))?;
        let check = body::agent_check(&fields).map_err(|why| bad(format!("Invalid check: {why}")))?;
        if check.name.is_empty() {
            return Err(bad("Missing check name"));
        }
        Ok(self.write(self.put_check(check), |_| Response::empty()))
    }

    fn put_check(&self, check: CheckForm) -> Change {
        let node = self.on_this_node();
        Change::Register { node, keep_node: true, service: None, checks: vec![check], replace_checks: false }
    }

    fn deregister(&self, what: Registered) -> Result<Plan, Refused> {
        let change = Change::Deregister { node: self.facts.name.clone(), what };
        Ok(self.write(change, |_| Response::empty()))
    }

    /// Puts or takes away the critical check that keeps traffic off this node or one of its instances.
    fn maintenance(&self, request: &Request<'_>, query: &Query, service: Option<&str>) -> Result<Plan, Refused> {
        only(request, &["PUT"])?;
        if service == Some("") {
            return Err(bad("Missing service ID"));
        }
        let enable = match query.get("enable") {
            None => return Err(bad("Missing value for enable")),
            Some("") => return Err(bad("Missing value for enable")),
            Some(_) => query.flag("enable").map_err(|_| bad("Invalid value for enable: want true or false"))?,
        };
        let (what, id, name) = match service {
            None => ("node", NODE_MAINTENANCE.to_owned(), "Node Maintenance Mode"),
            Some(id) => ("service", format!("{SERVICE_MAINTENANCE}{id}"), "Service Maintenance Mode"),
        };
        if let Some(id) = service
            && self.registry.read().service_on(&self.facts.name, id).is_none()
        {
            return Err(Response::text(
                404,
                format!("Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."),
            ));
        }
        let is_on = self.registry.read().check_on(&self.facts.name, &id).is_some();
        if !enable {
            if !is_on {
                return Ok(Plan::Answer(Response::empty()));
            }
            return self.deregister(Registered::Check(id));
        }
        let notes = match query.get("reason") {
            None | Some("") => format!(
                "Maintenance mode is enabled for this {what}, but no reason was provided. This is a default message."
            ),
            Some(reason) => reason.to_owned(),
        };
        let check = CheckForm {
            id,
            name: name.into(),
            notes,
            service_id: service.unwrap_or_default().to_owned(),
            status: Status::Critical,
            ..CheckForm::default()
        };
        Ok(self.write(self.put_check(check), |_| Response::empty()))
    }

    /// The service speaks for its TTL check. Only a change of status needs the log.
    fn update_ttl(&self, word: &str, id: &str, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["PUT"])?;
        let (status, mut output) = match word {
            "pass" => (Status::Passing, query.get("note").unwrap_or_default().to_owned()),
            "warn" => (Status::Warning, query.get("note").unwrap_or_default().to_owned()),
            "fail" => (Status::Critical, query.get("note").unwrap_or_default().to_owned()),
            _ => {
                let value = body::parse(request.body)?;
                let fields = Fields::of(&value).ok_or_else(|| bad("Request decode failed: an update is an object"))?;
                let word = fields.text("Status").map_err(bad)?;
                let status = Status::from_word(&word).ok_or_else(|| bad(format!("Invalid check status: {word:?}")))?;
                (status, fields.text("Output").map_err(bad)?)
            }
        };
        cut(&mut output, OUTPUT_BYTES_MAX);
        // The catalog is locked before the checks, here and everywhere.
        let catalog = self.registry.read();
        let mut runner = self.checks.lock();
        // What was registered a moment ago is known here at once.
        runner.sync(&catalog, request.now);
        let change = runner.ttl(id, status, output, request.now);
        drop((runner, catalog));
        match change {
            Ok(None) => Ok(Plan::Answer(Response::empty())),
            Ok(Some(change)) => Ok(self.write(change, |_| Response::empty())),
            Err(TtlError::Unknown) => Err(Response::text(
                404,
                format!("Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."),
            )),
            Err(TtlError::NotTtl) => Err(Response::text(500, format!("CheckID {id:?} does not have associated TTL"))),
        }
    }
}

/// What stands behind the first segments of a path: an id may have slashes.
fn rest(path: &str, segments: usize) -> &str {
    path.splitn(segments + 1, '/').nth(segments).unwrap_or("")
}

/// The check of a node that says whether it is there.
const ALIVE: &str = "serfHealth";

/// A node as a member of the cluster: 1 is alive, 4 has failed (serf's numbers).
fn member(datacenter: &str, name: &str, id: &str, address: &str, is_alive: bool) -> serde_json::Value {
    json!({
        "Name": name,
        "Addr": address,
        "Port": 8301,
        "Tags": {"role": "consul", "dc": datacenter, "id": id, "port": "8300", "vsn": "2"},
        "Status": if is_alive { 1 } else { 4 },
        "ProtocolMin": 1,
        "ProtocolMax": 5,
        "ProtocolCur": 2,
        "DelegateMin": 2,
        "DelegateMax": 5,
        "DelegateCur": 4,
    })
}

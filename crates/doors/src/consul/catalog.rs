//! `/v1/catalog/…` and `/v1/health/…`: all nodes, services and checks.

use std::collections::{BTreeMap, BTreeSet};

use discovery::change::{Change, Registered};
use discovery::model::{Node, NodeForm, Status};
use discovery::query::Instance;
use discovery::watch::Watch;
use serde::Serialize;

use super::body::{self, Fields};
use super::query::{Query, segment};
use super::shape::{self, CheckShape, NodeShape};
use super::{Door, Plan, Refused, Request, Response, bad, list, only};

/// Whether a node has all these pairs.
fn has_meta(node: &Node, wanted: &[(String, String)]) -> bool {
    wanted.iter().all(|(key, value)| node.form.meta.get(key) == Some(value))
}

fn has_tags(one: &Instance<'_>, tags: &[String]) -> bool {
    tags.iter().all(|tag| one.has_tag(tag))
}

impl Door {
    pub(super) fn catalog(&self, path: &str, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        let (word, rest) = path.split_once('/').unwrap_or((path, ""));
        let name = segment(rest)?;
        match word {
            "register" => self.catalog_register(request),
            "deregister" => self.catalog_deregister(request),
            "datacenters" => {
                only(request, &["GET"])?;
                Ok(Plan::Answer(Response::json(&[&self.facts.datacenter], query.is_pretty())))
            }
            "nodes" => self.catalog_nodes(request, query),
            "services" => self.catalog_services(request, query),
            "service" => self.catalog_service(name, request, query),
            "node" => self.catalog_node(name, false, request, query),
            "node-services" => self.catalog_node(name, true, request, query),
            "connect" => self.nothing(request, query),
            _ => Err(Response::text(404, "Invalid URL path: not a recognized HTTP API endpoint")),
        }
    }

    /// What of a mesh that is not there: an empty list that never changes.
    fn nothing(&self, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["GET"])?;
        let never = Watch::Key(String::new());
        self.read(request, query, never, |_| Response::json(&[(); 0], false))
    }

    fn catalog_nodes(&self, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["GET"])?;
        let (filter, meta, is_pretty) = (query.filter()?, query.node_meta(), query.is_pretty());
        let datacenter = self.facts.datacenter.clone();
        self.read(request, query, Watch::Nodes, move |catalog| {
            let nodes = catalog.nodes().filter(|node| has_meta(node, &meta));
            list(nodes.map(|node| shape::node(node, &datacenter)), filter.as_ref(), is_pretty)
        })
    }

    fn catalog_services(&self, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["GET"])?;
        let (filter, meta, is_pretty) = (query.filter()?, query.node_meta(), query.is_pretty());
        let datacenter = self.facts.datacenter.clone();
        self.read(request, query, Watch::Services, move |catalog| {
            let mut all = BTreeMap::<&str, BTreeSet<&str>>::new();
            for (name, instances) in catalog.services() {
                for one in instances.filter(|one| has_meta(one.node, &meta)) {
                    if let Some(filter) = &filter {
                        let shown = serde_json::to_value(shape::catalog_service(&one, &datacenter));
                        match filter.keeps(&shown.expect("our shapes are JSON")) {
                            Ok(true) => {}
                            Ok(false) => continue,
                            Err(why) => return bad(format!("Failed to execute filter: {why}")),
                        }
                    }
                    all.entry(name).or_default().extend(one.service.form.tags.iter().map(String::as_str));
                }
            }
            Response::json(&all, is_pretty)
        })
    }

    fn catalog_service(&self, name: String, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["GET"])?;
        if name.is_empty() {
            return Err(bad("Missing service name"));
        }
        let (filter, meta, is_pretty) = (query.filter()?, query.node_meta(), query.is_pretty());
        let tags: Vec<String> = query.all("tag").map(str::to_owned).collect();
        let datacenter = self.facts.datacenter.clone();
        self.read(request, query, Watch::Service(name.clone()), move |catalog| {
            let instances = catalog.instances(&name).filter(|one| has_meta(one.node, &meta) && has_tags(one, &tags));
            list(instances.map(|one| shape::catalog_service(&one, &datacenter)), filter.as_ref(), is_pretty)
        })
    }

    fn catalog_node(&self, name: String, as_list: bool, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["GET"])?;
        if name.is_empty() {
            return Err(bad("Missing node name"));
        }
        let (filter, is_pretty) = (query.filter()?, query.is_pretty());
        let datacenter = self.facts.datacenter.clone();
        self.read(request, query, Watch::Node(name.clone()), move |catalog| {
            let Some(node) = catalog.node(&name) else {
                return Response::json(&None::<()>, is_pretty);
            };
            let mut services = BTreeMap::new();
            for one in catalog.services_on(&name) {
                let shown = shape::service(one.service);
                if let Some(filter) = &filter {
                    match filter.keeps(&serde_json::to_value(&shown).expect("our shapes are JSON")) {
                        Ok(true) => {}
                        Ok(false) => continue,
                        Err(why) => return bad(format!("Failed to execute filter: {why}")),
                    }
                }
                services.insert(one.service.form.id.as_str(), shown);
            }
            let node = shape::node(node, &datacenter);
            if as_list {
                let services: Vec<_> = services.into_values().collect();
                Response::json(&NodeServices { node, services }, is_pretty)
            } else {
                Response::json(&NodeServices { node, services }, is_pretty)
            }
        })
    }

    fn catalog_register(&self, request: &Request<'_>) -> Result<Plan, Refused> {
        only(request, &["PUT"])?;
        let value = body::parse(request.body)?;
        let fields = Fields::of(&value).ok_or_else(|| bad("Request decode failed: a registration is an object"))?;
        let change = self.registration(&fields).map_err(bad)?;
        Ok(self.write(change, |_| Response::json(&true, false)))
    }

    fn registration(&self, fields: &Fields<'_>) -> Result<Change, String> {
        self.check_datacenter(fields)?;
        let node = body::node(fields)?;
        if node.name.is_empty() || node.address.is_empty() {
            return Err("Must provide node and address".into());
        }
        let service = match fields.object("Service")? {
            None => None,
            Some(fields) => {
                let service = body::service(&fields, "Service")?;
                if service.name.is_empty() {
                    return Err("Must provide service name (Service.Service) with ID".into());
                }
                Some(service)
            }
        };
        let mut checks = Vec::new();
        let given = fields.get("Check").into_iter().chain(fields.list("Checks")?);
        for fields in given.filter_map(Fields::of) {
            let check = body::catalog_check(&fields)?;
            let on = fields.text("Node")?;
            if !on.is_empty() && !on.eq_ignore_ascii_case(&node.name) {
                return Err(format!("check node {on:?} does not match node {:?}", node.name));
            }
            checks.push(check);
        }
        let keep_node = fields.truth("SkipNodeUpdate")?;
        Ok(Change::Register { node, keep_node, service, checks, replace_checks: false })
    }

    fn check_datacenter(&self, fields: &Fields<'_>) -> Result<(), String> {
        let datacenter = fields.text("Datacenter")?;
        if datacenter.is_empty() || datacenter == self.facts.datacenter {
            return Ok(());
        }
        Err(format!("No path to datacenter: {datacenter:?}"))
    }

    fn catalog_deregister(&self, request: &Request<'_>) -> Result<Plan, Refused> {
        only(request, &["PUT"])?;
        let value = body::parse(request.body)?;
        let fields = Fields::of(&value).ok_or_else(|| bad("Request decode failed: a deregistration is an object"))?;
        let read = || -> Result<Change, String> {
            self.check_datacenter(&fields)?;
            let NodeForm { name, .. } = body::node(&fields)?;
            if name.is_empty() {
                return Err("Must provide node".into());
            }
            let (service, check) = (fields.text("ServiceID")?, fields.text("CheckID")?);
            let what = match (service.is_empty(), check.is_empty()) {
                (false, _) => Registered::Service(service),
                (_, false) => Registered::Check(check),
                _ => Registered::Node,
            };
            Ok(Change::Deregister { node: name, what })
        };
        let change = read().map_err(bad)?;
        let mut plan = self.write(change, |_| Response::json(&true, false));
        if let Plan::Write(write) = &mut plan {
            // As Consul: what is not there is gone.
            write.is_idempotent = true;
        }
        Ok(plan)
    }

    // ---- health ----------------------------------------------------------------------------------------------------

    pub(super) fn health(&self, path: &str, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        only(request, &["GET"])?;
        let (word, rest) = path.split_once('/').unwrap_or((path, ""));
        let name = segment(rest)?;
        let needs = |what: &str| if name.is_empty() { Err(bad(format!("Missing {what}"))) } else { Ok(()) };
        match word {
            "node" => {
                needs("node name")?;
                let (filter, is_pretty) = (query.filter()?, query.is_pretty());
                self.read(request, query, Watch::Node(name.clone()), move |catalog| {
                    list(catalog.checks_on(&name).map(|check| shape::check(catalog, check)), filter.as_ref(), is_pretty)
                })
            }
            "checks" => {
                needs("service name")?;
                let (filter, meta, is_pretty) = (query.filter()?, query.node_meta(), query.is_pretty());
                self.read(request, query, Watch::Service(name.clone()), move |catalog| {
                    let instances = catalog.instances(&name).filter(|one| has_meta(one.node, &meta));
                    let own = |one: Instance<'_>| one.service.form.id.clone();
                    let checks = instances.flat_map(|one| {
                        let id = own(one);
                        one.checks().filter(move |check| check.form.service_id == id)
                    });
                    list(checks.map(|check| shape::check(catalog, check)), filter.as_ref(), is_pretty)
                })
            }
            "state" => {
                needs("check state")?;
                let wanted = match name.as_str() {
                    "any" => None,
                    word => Some(Status::from_word(word).ok_or_else(|| bad(format!("Invalid check state: {word:?}")))?),
                };
                let (filter, meta, is_pretty) = (query.filter()?, query.node_meta(), query.is_pretty());
                self.read(request, query, Watch::Checks, move |catalog| {
                    let on = |node: &str| catalog.node(node).is_some_and(|node| has_meta(node, &meta));
                    let checks = catalog
                        .checks()
                        .filter(|check| wanted.is_none_or(|wanted| check.form.status == wanted))
                        .filter(|check| meta.is_empty() || on(&check.node));
                    let shown = checks.map(|check| -> CheckShape<'_> { shape::check(catalog, check) });
                    list(shown, filter.as_ref(), is_pretty)
                })
            }
            "service" => {
                needs("service name")?;
                self.health_service(name, request, query)
            }
            "connect" | "ingress" => self.nothing(request, query),
            _ => Err(Response::text(404, "Invalid URL path: not a recognized HTTP API endpoint")),
        }
    }

    fn health_service(&self, name: String, request: &Request<'_>, query: &Query) -> Result<Plan, Refused> {
        let (filter, meta, is_pretty) = (query.filter()?, query.node_meta(), query.is_pretty());
        let only_passing = query.flag("passing")?;
        let tags: Vec<String> = query.all("tag").map(str::to_owned).collect();
        let datacenter = self.facts.datacenter.clone();
        self.read(request, query, Watch::Service(name.clone()), move |catalog| {
            let instances = catalog
                .instances(&name)
                .filter(|one| !only_passing || one.status() == Status::Passing)
                .filter(|one| has_meta(one.node, &meta) && has_tags(one, &tags));
            list(instances.map(|one| shape::health(catalog, &one, &datacenter)), filter.as_ref(), is_pretty)
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeServices<'a, S> {
    node: NodeShape<'a>,
    services: S,
}

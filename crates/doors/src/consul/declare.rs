//! What the configuration file's services make of the registry at a start: those that are new or differ are registered,
//! those that the file no longer has go.
//!
//! Whose a service is stands in its metadata ([`SOURCE`]), so that what clients registered stays, and so that a service is
//! known as the file's after any number of restarts.

use std::collections::BTreeMap;

use discovery::Catalog;
use discovery::change::{Change, Registered};
use discovery::model::{Check, CheckForm, NodeForm, ServiceForm};
use discovery::query::Instance;

use super::Declared;
use super::shape::SERVICE_MAINTENANCE;

/// The mark on services that came out of the configuration file, by Consul's convention for such marks.
pub const SOURCE: (&str, &str) = ("external-source", "quorate.toml");

/// The changes that make the registry's word about this node's declared services that of the file; none where it is already.
pub fn declaration(catalog: &Catalog, own: &NodeForm, services: &[Declared]) -> Vec<Change> {
    let by_id: BTreeMap<&str, &Declared> = services.iter().map(|one| (one.service.id.as_str(), one)).collect();
    let mut changes = Vec::new();
    for one in catalog.services_on(&own.name) {
        let is_ours = one.service.form.meta.get(SOURCE.0).is_some_and(|source| source == SOURCE.1);
        let id = &one.service.form.id;
        if is_ours && !by_id.contains_key(id.as_str()) {
            changes.push(Change::Deregister { node: own.name.clone(), what: Registered::Service(id.clone()) });
        }
    }
    for declared in services {
        let mut service = declared.service.clone();
        service.meta.insert(SOURCE.0.into(), SOURCE.1.into());
        let known = catalog.service_on(&own.name, &service.id);
        if known.is_some_and(|known| is_same(&known, &service, declared)) {
            continue;
        }
        let mut checks = declared.checks.clone();
        // Whoever put it into maintenance ends that; a start does not.
        let kept = known.iter().flat_map(Instance::checks).filter(|check| is_maintenance(check));
        checks.extend(kept.map(|check| CheckForm { keeps_status: true, ..check.form.clone() }));
        changes.push(Change::Register {
            node: own.clone(),
            keep_node: true,
            service: Some(service),
            checks,
            replace_checks: true,
        });
    }
    changes
}

fn is_maintenance(check: &Check) -> bool {
    check.form.id.starts_with(SERVICE_MAINTENANCE)
}

/// Whether the service is registered as it is declared, with the same checks and no others. How they are does not matter.
fn is_same(known: &Instance<'_>, service: &ServiceForm, declared: &Declared) -> bool {
    let own = |check: &&Check| check.form.service_id == service.id && !is_maintenance(check);
    let checks: Vec<&Check> = known.checks().filter(own).collect();
    let same = |check: &Check, wanted: &CheckForm| {
        check.form.id == wanted.id
            && check.form.name == wanted.name
            && check.form.notes == wanted.notes
            && check.form.definition == wanted.definition
    };
    known.service.form == *service
        && checks.len() == declared.checks.len()
        && declared.checks.iter().all(|wanted| checks.iter().any(|check| same(check, wanted)))
}

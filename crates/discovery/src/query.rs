//! What the doors and the gateway ask.

use crate::catalog::{Catalog, OnNode, lower, on_node};
use crate::change::{KvOp, Outcome};
use crate::model::{Check, Document, KvEntry, Node, Service, Status};

/// An instance with its node.
#[derive(Clone, Copy, Debug)]
pub struct Instance<'a> {
    catalog: &'a Catalog,
    key: &'a OnNode,
    /// Its node.
    pub node: &'a Node,
    /// The instance.
    pub service: &'a Service,
}

impl<'a> Instance<'a> {
    /// The worst of the node's checks and its own.
    pub fn status(&self) -> Status {
        self.node.status.max(self.service.status)
    }

    /// Where it is: its own address, or its node's.
    pub fn address(&self) -> &'a str {
        let own = &self.service.form.address;
        if own.is_empty() { &self.node.form.address } else { own }
    }

    /// Its weight in DNS and balancing as it is now: 0 while critical.
    pub fn weight(&self) -> u32 {
        match self.status() {
            Status::Passing => self.service.form.weight_passing,
            Status::Warning => self.service.form.weight_warning,
            Status::Critical => 0,
        }
    }

    /// Whether it carries this tag, without regard to case.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.service.form.tags.iter().any(|own| own.eq_ignore_ascii_case(tag))
    }

    /// The node's checks, then its own.
    pub fn checks(&self) -> impl Iterator<Item = &'a Check> + use<'a> {
        self.catalog.checks_of(&self.key.0, "").chain(self.catalog.checks_of(&self.key.0, &self.key.1))
    }
}

/// Whether none of its checks and of its node's is critical.
fn may_get_traffic(one: &Instance<'_>) -> bool {
    one.status() != Status::Critical || base::is_planted(base::Bug::DnsTellsCritical)
}

impl Catalog {
    fn instance<'a>(&'a self, key: &'a OnNode) -> Option<Instance<'a>> {
        let (node, service) = (self.nodes.records().get(&key.0)?, self.services.records().get(key)?);
        Some(Instance { catalog: self, key, node, service })
    }

    /// Checks of an instance, or of the node itself for "".
    fn checks_of<'a>(&'a self, node: &str, owner: &str) -> impl Iterator<Item = &'a Check> + use<'a> {
        let node = node.to_owned();
        self.owned(&node, owner).filter_map(move |id| self.checks.records().get(&(node.clone(), id)))
    }

    /// All instances of a service, in the order of node and id.
    pub fn instances<'a>(&'a self, service: &str) -> impl Iterator<Item = Instance<'a>> + use<'a> {
        let keys = self.by_name.get(lower(service).as_ref());
        keys.into_iter().flatten().filter_map(|key| self.instance(key))
    }

    /// The instances of a service that may get traffic: none of their checks and of their node's is critical. With a tag,
    /// those that carry it. Allocates nothing.
    pub fn healthy<'a, 'b>(
        &'a self,
        service: &str,
        tag: Option<&'b str>,
    ) -> impl Iterator<Item = Instance<'a>> + use<'a, 'b> {
        self.instances(service).filter(move |one| may_get_traffic(one) && tag.is_none_or(|tag| one.has_tag(tag)))
    }

    /// Like [`Catalog::healthy`], beginning at the instance in this place and coming round to it again: a fair part of a
    /// service with very many.
    pub fn healthy_from<'a, 'b>(
        &'a self,
        service: &str,
        tag: Option<&'b str>,
        from: usize,
    ) -> impl Iterator<Item = Instance<'a>> + use<'a, 'b> {
        let keys = self.by_name.get(lower(service).as_ref());
        let round =
            keys.into_iter().flat_map(move |keys| keys.iter().chain(keys).skip(from % keys.len()).take(keys.len()));
        round
            .filter_map(|key| self.instance(key))
            .filter(move |one| may_get_traffic(one) && tag.is_none_or(|tag| one.has_tag(tag)))
    }

    /// How many instances a service has, healthy or not.
    pub fn instance_count(&self, service: &str) -> usize {
        self.by_name.get(lower(service).as_ref()).map_or(0, |keys| keys.len())
    }

    /// Whether there is an instance of this service at all.
    pub fn has_service(&self, service: &str) -> bool {
        self.by_name.contains_key(lower(service).as_ref())
    }

    /// Names of services as they were registered, each once, with their instances.
    pub fn services(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = Instance<'_>>)> {
        self.by_name.values().filter_map(|keys| {
            let first = self.instance(keys.first()?)?;
            Some((first.service.form.name.as_str(), keys.iter().filter_map(|key| self.instance(key))))
        })
    }

    /// Nodes in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.records().values()
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.records().get(lower(name).as_ref())
    }

    /// The instances on a node.
    pub fn services_on<'a>(&'a self, node: &str) -> impl Iterator<Item = Instance<'a>> + use<'a> {
        on_node(self.services.records(), &lower(node)).filter_map(|(key, _)| self.instance(key))
    }

    /// One instance on a node.
    pub fn service_on(&self, node: &str, id: &str) -> Option<Instance<'_>> {
        let (key, _) = self.services.records().get_key_value(&(lower(node).into_owned(), id.to_owned()))?;
        self.instance(key)
    }

    /// The checks of a node and of everything on it.
    pub fn checks_on<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Check> + use<'a> {
        on_node(self.checks.records(), &lower(node)).map(|(_, check)| check)
    }

    /// One check of a node.
    pub fn check_on(&self, node: &str, id: &str) -> Option<&Check> {
        self.checks.records().get(&(lower(node).into_owned(), id.to_owned()))
    }

    /// All checks.
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        self.checks.records().values()
    }

    /// The instance that a check belongs to.
    pub fn owner(&self, check: &Check) -> Option<&Service> {
        if check.form.service_id.is_empty() {
            return None;
        }
        self.services.records().get(&(lower(&check.node).into_owned(), check.form.service_id.clone()))
    }

    /// How many nodes, instances, checks and keys there are, and bytes of keys and values.
    pub fn counts(&self) -> Counts {
        Counts {
            nodes: self.nodes.records().len(),
            services: self.by_name.len(),
            instances: self.services.records().len(),
            checks: self.checks.records().len(),
            keys: self.kv.shelf.records().len(),
            kv_bytes: self.kv.bytes,
            documents: self.documents.records().len(),
        }
    }

    // ---- keys ------------------------------------------------------------------------------------------------------

    /// A key's value.
    pub fn key(&self, key: &str) -> Option<&KvEntry> {
        self.kv.entry(key)
    }

    /// Keys that begin so, in order.
    pub fn keys_under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a KvEntry)> {
        self.kv.under(prefix)
    }

    /// Runs operations that only read.
    pub fn kv_read(&self, ops: &[KvOp]) -> Outcome {
        self.kv.read(ops, &self.sessions)
    }

    // ---- documents -------------------------------------------------------------------------------------------------

    /// The index at which any document last changed: what a change of documents expects.
    pub fn documents_index(&self) -> u64 {
        self.tables.documents
    }

    /// One document.
    pub fn document(&self, kind: &str, name: &str) -> Option<&Document> {
        self.documents.records().get(&(kind.to_owned(), name.to_owned()))
    }

    /// The documents of a kind, by name.
    pub fn documents<'a>(&'a self, kind: &str) -> impl Iterator<Item = (&'a str, &'a Document)> + use<'a> {
        on_node(self.documents.records(), kind).map(|(key, document)| (key.1.as_str(), document))
    }
}

/// How much is registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Nodes.
    pub nodes: usize,
    /// Services by name.
    pub services: usize,
    /// Instances of services.
    pub instances: usize,
    /// Checks.
    pub checks: usize,
    /// Keys of the key-value tree.
    pub keys: usize,
    /// Bytes of its keys and values.
    pub kv_bytes: u64,
    /// Documents.
    pub documents: usize,
}

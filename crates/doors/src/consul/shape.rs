//! The JSON shapes of Consul's API, in its order of fields.

use std::collections::BTreeMap;

use discovery::catalog::Catalog;
use discovery::model::{Check, KvEntry, Node, Service, TaggedAddress};
use discovery::query::Instance;
use discovery::session::Session;
use serde::Serialize;
use serde_json::Value;

use super::query::show_span;

/// `Node` of health and catalog answers.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NodeShape<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    datacenter: &'a str,
    tagged_addresses: &'a BTreeMap<String, String>,
    meta: &'a BTreeMap<String, String>,
    create_index: u64,
    modify_index: u64,
}

pub(super) fn node<'a>(node: &'a Node, datacenter: &'a str) -> NodeShape<'a> {
    NodeShape {
        id: &node.form.id,
        node: &node.form.name,
        address: &node.form.address,
        datacenter,
        tagged_addresses: &node.form.tagged_addresses,
        meta: &node.form.meta,
        create_index: node.ages.created,
        modify_index: node.ages.modified,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u32,
    warning: u32,
}

fn weights(service: &Service) -> Weights {
    Weights { passing: service.form.weight_passing, warning: service.form.weight_warning }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AddressShape<'a> {
    address: &'a str,
    port: u16,
}

fn tagged(addresses: &BTreeMap<String, TaggedAddress>) -> BTreeMap<&str, AddressShape<'_>> {
    addresses
        .iter()
        .map(|(name, tagged)| (name.as_str(), AddressShape { address: &tagged.address, port: tagged.port }))
        .collect()
}

#[derive(Default, Serialize)]
struct Nothing {}

/// What stands for the mesh in an answer of a registry without one.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Proxy {
    mode: &'static str,
    mesh_gateway: Nothing,
    expose: Nothing,
}

/// `Service` of `/v1/health/service`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ServiceShape<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: &'a [String],
    address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: BTreeMap<&'a str, AddressShape<'a>>,
    meta: &'a BTreeMap<String, String>,
    port: u16,
    weights: Weights,
    enable_tag_override: bool,
    proxy: Proxy,
    connect: Nothing,
    create_index: u64,
    modify_index: u64,
}

pub(super) fn service(service: &Service) -> ServiceShape<'_> {
    ServiceShape {
        id: &service.form.id,
        service: &service.form.name,
        tags: &service.form.tags,
        address: &service.form.address,
        tagged_addresses: tagged(&service.form.tagged_addresses),
        meta: &service.form.meta,
        port: service.form.port,
        weights: weights(service),
        enable_tag_override: service.form.enable_tag_override,
        proxy: Proxy::default(),
        connect: Nothing {},
        create_index: service.ages.created,
        modify_index: service.ages.modified,
    }
}

/// A service of `/v1/agent/services`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AgentServiceShape<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: &'a [String],
    meta: &'a BTreeMap<String, String>,
    port: u16,
    address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: BTreeMap<&'a str, AddressShape<'a>>,
    weights: Weights,
    enable_tag_override: bool,
    /// Only where one service is asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) content_hash: String,
    datacenter: &'a str,
}

/// The hash of an answer (FNV-1a, 64 bits): two of a service that differ have different ones, but for one in 2^64.
pub(super) fn hash(bytes: &[u8]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

pub(super) fn agent_service<'a>(service: &'a Service, datacenter: &'a str) -> AgentServiceShape<'a> {
    AgentServiceShape {
        id: &service.form.id,
        service: &service.form.name,
        tags: &service.form.tags,
        meta: &service.form.meta,
        port: service.form.port,
        address: &service.form.address,
        tagged_addresses: tagged(&service.form.tagged_addresses),
        weights: weights(service),
        enable_tag_override: service.form.enable_tag_override,
        content_hash: String::new(),
        datacenter,
    }
}

/// An element of `/v1/catalog/service`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CatalogServiceShape<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    datacenter: &'a str,
    tagged_addresses: &'a BTreeMap<String, String>,
    node_meta: &'a BTreeMap<String, String>,
    service_kind: &'static str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [String],
    service_address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_tagged_addresses: BTreeMap<&'a str, AddressShape<'a>>,
    service_weights: Weights,
    service_meta: &'a BTreeMap<String, String>,
    service_port: u16,
    service_enable_tag_override: bool,
    service_proxy: Proxy,
    service_connect: Nothing,
    create_index: u64,
    modify_index: u64,
}

pub(super) fn catalog_service<'a>(one: &Instance<'a>, datacenter: &'a str) -> CatalogServiceShape<'a> {
    let (node, service) = (one.node, one.service);
    CatalogServiceShape {
        id: &node.form.id,
        node: &node.form.name,
        address: &node.form.address,
        datacenter,
        tagged_addresses: &node.form.tagged_addresses,
        node_meta: &node.form.meta,
        service_kind: "",
        service_id: &service.form.id,
        service_name: &service.form.name,
        service_tags: &service.form.tags,
        service_address: &service.form.address,
        service_tagged_addresses: tagged(&service.form.tagged_addresses),
        service_weights: weights(service),
        service_meta: &service.form.meta,
        service_port: service.form.port,
        service_enable_tag_override: service.form.enable_tag_override,
        service_proxy: Proxy::default(),
        service_connect: Nothing {},
        create_index: service.ages.created,
        modify_index: service.ages.modified,
    }
}

/// A check, as everywhere in the API.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CheckShape<'a> {
    node: &'a str,
    #[serde(rename = "CheckID")]
    check_id: &'a str,
    name: &'a str,
    pub(super) status: &'static str,
    notes: &'a str,
    pub(super) output: std::borrow::Cow<'a, str>,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [String],
    #[serde(rename = "Type")]
    kind: &'static str,
    interval: String,
    timeout: String,
    exposed_port: u16,
    definition: Value,
    create_index: u64,
    modify_index: u64,
}

/// Ids of the checks that maintenance mode puts.
pub(super) const NODE_MAINTENANCE: &str = "_node_maintenance";
/// See [`NODE_MAINTENANCE`].
pub(super) const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

pub(super) fn check<'a>(catalog: &'a Catalog, check: &'a Check) -> CheckShape<'a> {
    let owner = catalog.owner(check);
    let id = check.form.id.as_str();
    let is_maintenance = id == NODE_MAINTENANCE || id.starts_with(SERVICE_MAINTENANCE);
    let shown = serde_json::from_str(&check.form.shown_definition).ok().filter(Value::is_object);
    CheckShape {
        node: &check.node,
        check_id: id,
        name: &check.form.name,
        status: check.form.status.word(),
        notes: &check.form.notes,
        output: check.form.output.as_str().into(),
        service_id: &check.form.service_id,
        service_name: owner.map_or("", |service| &service.form.name),
        service_tags: owner.map_or(&[], |service| &service.form.tags),
        kind: if is_maintenance { "maintenance" } else { check.form.definition.probe.word() },
        interval: show_span(check.form.definition.interval_ms),
        timeout: show_span(check.form.definition.timeout_ms),
        exposed_port: 0,
        definition: shown.unwrap_or_else(|| Value::Object(serde_json::Map::new())),
        create_index: check.ages.created,
        modify_index: check.ages.modified,
    }
}

/// An element of `/v1/health/service`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct HealthShape<'a> {
    node: NodeShape<'a>,
    service: ServiceShape<'a>,
    checks: Vec<CheckShape<'a>>,
}

pub(super) fn health<'a>(catalog: &'a Catalog, one: &Instance<'a>, datacenter: &'a str) -> HealthShape<'a> {
    HealthShape {
        node: node(one.node, datacenter),
        service: service(one.service),
        checks: one.checks().map(|one| check(catalog, one)).collect(),
    }
}

/// A key's value.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct KvShape<'a> {
    lock_index: u64,
    key: &'a str,
    flags: u64,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    /// Not Consul's: the number that this lock yielded.
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<u64>,
    create_index: u64,
    modify_index: u64,
}

/// A session.
#[derive(Serialize)]
pub(super) struct SessionShape<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Name")]
    name: &'a str,
    #[serde(rename = "Node")]
    node: &'a str,
    #[serde(rename = "LockDelay")]
    lock_delay: u64,
    #[serde(rename = "Behavior")]
    behavior: &'a str,
    #[serde(rename = "TTL")]
    ttl: &'a str,
    #[serde(rename = "NodeChecks")]
    node_checks: &'a [String],
    #[serde(rename = "ServiceChecks")]
    service_checks: Option<Vec<ServiceCheckShape<'a>>>,
    #[serde(rename = "CreateIndex")]
    create_index: u64,
    #[serde(rename = "ModifyIndex")]
    modify_index: u64,
}

#[derive(Serialize)]
struct ServiceCheckShape<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Namespace")]
    namespace: &'a str,
}

pub(super) fn session(session: &Session) -> SessionShape<'_> {
    let form = &session.form;
    let service = |id| ServiceCheckShape { id, namespace: "" };
    SessionShape {
        id: &form.id,
        name: &form.name,
        node: &form.node,
        lock_delay: form.lock_delay_ns,
        behavior: form.behavior.word(),
        ttl: &form.ttl,
        node_checks: &form.node_checks,
        service_checks: (!form.service_checks.is_empty())
            .then(|| form.service_checks.iter().map(|id| service(id)).collect()),
        create_index: session.created,
        modify_index: session.created,
    }
}

pub(super) fn kv<'a>(key: &'a str, entry: &'a KvEntry) -> KvShape<'a> {
    KvShape {
        lock_index: entry.lock_index,
        key,
        flags: entry.flags,
        value: (!entry.value.0.is_empty()).then(|| base64(&entry.value.0)),
        session: entry.lock.as_ref().map(|lock| lock.session.as_str()),
        fence: entry.lock.as_ref().map(|lock| lock.fence),
        create_index: entry.ages.created,
        modify_index: entry.ages.modified,
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base 64 with padding (RFC 4648 §4).
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..4 {
            let shown = DIGITS[(word >> (18 - 6 * digit) & 63) as usize];
            out.push(if digit <= chunk.len() { char::from(shown) } else { '=' });
        }
    }
    out
}

/// Reads [`base64`]; line breaks are passed over. `None` where it is none.
pub(super) fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits, mut digits, mut padding) = (0u32, 0, 0usize, 0usize);
    for byte in text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')) {
        digits += 1;
        if byte == b'=' {
            padding += 1;
            continue;
        }
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        if padding > 0 {
            return None;
        }
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    (digits % 4 == 0 && padding <= 2).then_some(out)
}

//! Bodies of registrations: Consul reads them without regard to case, and takes `snake_case` too.

use std::collections::BTreeMap;

use base::Duration;
use discovery::check::{DEREGISTER_AFTER_MIN, INTERVAL_MIN, TIMEOUT};
use discovery::limits::OUTPUT_BYTES_MAX;
use discovery::model::{CheckForm, Definition, HttpRequest, NodeForm, Probe, ServiceForm, Status, TaggedAddress, Tls};
use serde_json::{Map, Value};

use super::query::span;
use super::{Refused, bad};

/// An object whose fields are found without regard to case and underscores.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
}

fn is_same(one: &str, other: &str) -> bool {
    let plain = |text: &str| {
        text.bytes().filter(|byte| *byte != b'_').map(|byte| byte.to_ascii_lowercase()).collect::<Vec<_>>()
    };
    plain(one) == plain(other)
}

type Read<T> = Result<T, String>;

impl<'a> Fields<'a> {
    pub(super) fn of(value: &'a Value) -> Option<Fields<'a>> {
        value.as_object().map(|object| Fields { object })
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        let exact = self.object.get(name);
        let found = exact.or_else(|| self.object.iter().find(|(own, _)| is_same(own, name)).map(|(_, value)| value));
        found.filter(|value| !value.is_null())
    }

    /// Whether a field is given, be it `null`.
    pub(super) fn names(&self, name: &str) -> bool {
        self.object.keys().any(|own| is_same(own, name))
    }

    pub(super) fn text(&self, name: &str) -> Read<String> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(format!("{name} wants a string")),
        }
    }

    pub(super) fn number(&self, name: &str, most: u64) -> Read<u64> {
        let number = match self.get(name) {
            None => return Ok(0),
            Some(Value::Number(number)) => number.as_u64(),
            // What many clients send.
            Some(Value::String(text)) if text.is_empty() => Some(0),
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        number.filter(|number| *number <= most).ok_or_else(|| format!("{name} wants a number from 0 to {most}"))
    }

    pub(super) fn truth(&self, name: &str) -> Read<bool> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(truth)) => Ok(*truth),
            Some(_) => Err(format!("{name} wants true or false")),
        }
    }

    pub(super) fn object(&self, name: &str) -> Read<Option<Fields<'a>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Fields { object })),
            Some(_) => Err(format!("{name} wants an object")),
        }
    }

    pub(super) fn list(&self, name: &str) -> Read<&'a [Value]> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => Err(format!("{name} wants a list")),
        }
    }

    pub(super) fn texts(&self, name: &str) -> Read<Vec<String>> {
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| format!("{name} wants strings"));
        self.list(name)?.iter().map(text).collect()
    }

    fn pairs(&self, name: &str) -> Read<BTreeMap<String, String>> {
        let Some(fields) = self.object(name)? else {
            return Ok(BTreeMap::new());
        };
        let pair = |(key, value): (&String, &Value)| match value.as_str() {
            Some(text) => Ok((key.clone(), text.to_owned())),
            None => Err(format!("{name}.{key} wants a string")),
        };
        fields.object.iter().map(pair).collect()
    }

    /// A span: `"10s"`, or nanoseconds.
    fn span(&self, name: &str) -> Read<Duration> {
        match self.get(name) {
            None => Ok(Duration::ZERO),
            Some(Value::String(text)) if text.is_empty() => Ok(Duration::ZERO),
            Some(Value::String(text)) => span(text).map_err(|why| format!("{name}: {why}")),
            Some(Value::Number(number)) => {
                let nanos = number.as_u64().ok_or_else(|| format!("{name} wants a span, as \"10s\""))?;
                Ok(Duration::from_nanos(nanos))
            }
            Some(_) => Err(format!("{name} wants a span, as \"10s\"")),
        }
    }

    fn is_set(&self, name: &str) -> bool {
        match self.get(name) {
            None => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(fields)) => !fields.is_empty(),
            Some(Value::Bool(truth)) => *truth,
            Some(_) => true,
        }
    }
}

/// A body as JSON.
pub(super) fn parse(body: &[u8]) -> Result<Value, Refused> {
    serde_json::from_slice(body).map_err(|error| bad(format!("Request decode failed: {error}")))
}

fn tagged(fields: &Fields<'_>) -> Read<BTreeMap<String, TaggedAddress>> {
    let Some(all) = fields.object("TaggedAddresses")? else {
        return Ok(BTreeMap::new());
    };
    let one = |(name, value): (&String, &Value)| {
        let address = match value {
            Value::String(address) => TaggedAddress { address: address.clone(), port: 0 },
            value => {
                let fields = Fields::of(value).ok_or_else(|| format!("TaggedAddresses.{name} wants an object"))?;
                TaggedAddress { address: fields.text("Address")?, port: fields.number("Port", 65535)? as u16 }
            }
        };
        Ok((name.clone(), address))
    };
    all.object.iter().map(one).collect()
}

/// The node of a catalog registration.
pub(super) fn node(fields: &Fields<'_>) -> Read<NodeForm> {
    Ok(NodeForm {
        name: fields.text("Node")?,
        id: fields.text("ID")?,
        address: fields.text("Address")?,
        tagged_addresses: fields.pairs("TaggedAddresses")?,
        meta: fields.pairs("NodeMeta")?,
    })
}

/// A service; `name` is the field its name stands in.
pub(super) fn service(fields: &Fields<'_>, name: &str) -> Read<ServiceForm> {
    let mut form = ServiceForm {
        id: fields.text("ID")?,
        name: fields.text(name)?,
        tags: fields.texts("Tags")?,
        address: fields.text("Address")?,
        port: fields.number("Port", 65535)? as u16,
        meta: fields.pairs("Meta")?,
        tagged_addresses: tagged(fields)?,
        enable_tag_override: fields.truth("EnableTagOverride")?,
        ..ServiceForm::default()
    };
    if let Some(weights) = fields.object("Weights")? {
        form.weight_passing = weights.number("Passing", 65535)? as u32;
        form.weight_warning = weights.number("Warning", 65535)? as u32;
    }
    if form.id.is_empty() {
        form.id.clone_from(&form.name);
    }
    for mesh in ["Connect", "Proxy"] {
        if fields.is_set(mesh) {
            return Err(format!("{mesh}: the service mesh is not available in quorate"));
        }
    }
    if !fields.text("Kind")?.is_empty() {
        return Err("Kind: proxies and gateways of the service mesh are not available in quorate".into());
    }
    Ok(form)
}

/// The ways of checking that Consul has and this has not.
const ABSENT: &[(&str, &str)] = &[
    ("Args", SCRIPTS),
    ("ScriptArgs", SCRIPTS),
    ("Script", SCRIPTS),
    ("DockerContainerID", SCRIPTS),
    ("UDP", "UDP checks are not available in quorate"),
    ("OSService", "OS service checks are not available in quorate"),
    ("ProxyHTTP", "proxied checks are not available in quorate"),
    ("ProxyGRPC", "proxied checks are not available in quorate"),
];
const SCRIPTS: &str =
    "Scripts are disabled on this agent: quorate never runs programs for a check; use an HTTP, TCP, gRPC or TTL check";

/// The definition of a check that this node makes, and its first status.
fn definition(fields: &Fields<'_>) -> Read<(Definition, Status)> {
    if let Some((_, why)) = ABSENT.iter().find(|(name, _)| fields.is_set(name)) {
        return Err((*why).into());
    }
    let kinds = ["HTTP", "TCP", "GRPC", "H2PING"].map(|name| fields.text(name).map(|target| (name, target)));
    let mut given = Vec::new();
    for kind in kinds {
        let (name, target) = kind?;
        if !target.is_empty() {
            given.push((name, target));
        }
    }
    let (alias_node, alias_service) = (fields.text("AliasNode")?, fields.text("AliasService")?);
    let is_alias = !alias_node.is_empty() || !alias_service.is_empty();
    let (ttl, interval) = (fields.span("TTL")?, fields.span("Interval")?);
    if given.len() + usize::from(is_alias) > 1 {
        return Err("a check has one of HTTP, TCP, GRPC, H2PING, TTL and an alias".into());
    }
    let is_made = !given.is_empty();
    if !ttl.is_zero() && (!interval.is_zero() || is_made) {
        return Err("Interval and TTL cannot both be specified".into());
    }
    if is_made && interval.is_zero() {
        return Err("Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks".into());
    }
    if is_alias && !interval.is_zero() {
        return Err("Interval cannot be set for Alias checks".into());
    }
    if is_alias && !ttl.is_zero() {
        return Err("TTL must be not be set for Alias checks".into());
    }
    if !is_made && !is_alias && ttl.is_zero() {
        return Err("TTL must be > 0 for TTL checks".into());
    }
    let tls = Tls { skip_verify: fields.truth("TLSSkipVerify")?, server_name: fields.text("TLSServerName")? };
    let probe = match given.pop() {
        Some(("HTTP", url)) => http_probe(fields, url, tls)?,
        Some((_, address)) if address.bytes().any(|byte| !byte.is_ascii_graphic()) => {
            return Err(format!("{address:?} is no address"));
        }
        Some(("TCP", address)) => {
            host_and_port("TCP", &address)?;
            if fields.truth("TCPUseTLS")? { Probe::TcpTls { address, tls } } else { Probe::Tcp { address } }
        }
        Some(("GRPC", target)) => {
            host_and_port("GRPC", target.split_once('/').map_or(target.as_str(), |(address, _)| address))?;
            Probe::Grpc { target, tls: fields.truth("GRPCUseTLS")?.then_some(tls) }
        }
        Some((_, address)) => {
            host_and_port("H2PING", &address)?;
            // As Consul: over TLS unless told otherwise.
            let is_tls = fields.get("H2PingUseTLS").is_none() || fields.truth("H2PingUseTLS")?;
            Probe::H2Ping { address, tls: is_tls.then_some(tls) }
        }
        None if is_alias => Probe::Alias { node: alias_node, service: alias_service },
        None => Probe::Ttl,
    };
    let count = |name: &str| fields.number(name, 1000).map(|count| count as u32);
    let critical = count("FailuresBeforeCritical")?;
    let warning = count("FailuresBeforeWarning")?;
    if warning > critical {
        return Err("FailuresBeforeWarning can't be higher than FailuresBeforeCritical".into());
    }
    let timeout = match fields.span("Timeout")? {
        Duration::ZERO => TIMEOUT,
        timeout => timeout.min(Duration::from_secs(300)),
    };
    let after = match fields.span("DeregisterCriticalServiceAfter")? {
        Duration::ZERO => Duration::ZERO,
        after => after.max(DEREGISTER_AFTER_MIN),
    };
    let output = match fields.number("OutputMaxSize", u64::from(u32::MAX))? {
        0 => OUTPUT_BYTES_MAX as u32,
        bytes => (bytes as u32).min(OUTPUT_BYTES_MAX as u32),
    };
    let span = match probe {
        Probe::Ttl => ttl,
        Probe::Alias { .. } => Duration::ZERO,
        _ => interval.max(INTERVAL_MIN),
    };
    // A year is longer than any node lives.
    let millis = |span: Duration| span.min(Duration::from_secs(365 * 86400)).as_millis() as u64;
    let definition = Definition {
        timeout_ms: if probe.runs() { millis(timeout).max(1) } else { 0 },
        interval_ms: millis(span).max(u64::from(!is_alias)),
        probe,
        deregister_after_ms: millis(after),
        successes_before_passing: count("SuccessBeforePassing")?,
        failures_before_warning: warning,
        failures_before_critical: critical,
        output_bytes_max: output,
    };
    Ok((definition, status(fields)?))
}

fn host_and_port(name: &str, address: &str) -> Read<()> {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(()),
        _ => Err(format!("{name} wants host:port, not {address:?}")),
    }
}

fn http_probe(fields: &Fields<'_>, url: String, tls: Tls) -> Read<Probe> {
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return Err(format!("HTTP wants a URL that begins with http:// or https://, not {url:?}"));
    };
    let is_plain = |byte: u8| byte.is_ascii_graphic();
    if rest.is_empty() || rest.starts_with(['/', '?', '#']) || !url.bytes().all(is_plain) {
        return Err(format!("HTTP wants a URL, not {url:?}"));
    }
    let method = match fields.text("Method")?.to_ascii_uppercase() {
        method if method.is_empty() => "GET".to_owned(),
        method => method,
    };
    if method.len() > 32 || !method.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err("Method wants a method's name".into());
    }
    let mut headers = BTreeMap::new();
    if let Some(all) = fields.object("Header")? {
        for name in all.object.keys() {
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            let values = all.texts(name)?;
            let is_clean = |value: &String| value.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
            if name.is_empty() || !name.bytes().all(is_token) || !values.iter().all(is_clean) {
                return Err(format!("Header {name:?} is not one"));
            }
            headers.insert(name.clone(), values);
        }
    }
    let (body, no_redirects) = (fields.text("Body")?, fields.truth("DisableRedirects")?);
    let is_tls = url.starts_with("https://");
    let request = HttpRequest { url, method, headers, body, no_redirects };
    Ok(if is_tls { Probe::Https(request, tls) } else { Probe::Http(request) })
}

fn status(fields: &Fields<'_>) -> Read<Status> {
    match fields.text("Status")?.as_str() {
        "" => Ok(Status::Critical),
        word => Status::from_word(word).ok_or_else(|| {
            format!("Status for checks must be \"passing\", \"warning\", or \"critical\"; got {word:?}")
        }),
    }
}

/// A check that this node makes, registered by itself.
pub(super) fn agent_check(fields: &Fields<'_>) -> Read<CheckForm> {
    let (definition, status) = definition(fields)?;
    let mut id = fields.text("ID")?;
    if id.is_empty() {
        id = fields.text("CheckID")?;
    }
    let name = fields.text("Name")?;
    if id.is_empty() {
        id.clone_from(&name);
    }
    Ok(CheckForm {
        id,
        name,
        notes: fields.text("Notes")?,
        service_id: fields.text("ServiceID")?,
        status,
        output: String::new(),
        keeps_status: true,
        definition,
        shown_definition: String::new(),
    })
}

/// A check of a catalog registration: made elsewhere.
pub(super) fn catalog_check(fields: &Fields<'_>) -> Read<CheckForm> {
    let name = fields.text("Name")?;
    let mut id = fields.text("CheckID")?;
    if id.is_empty() {
        id.clone_from(&name);
    }
    let shown = fields.object("Definition")?.filter(|shown| !shown.object.is_empty());
    Ok(CheckForm {
        name: if name.is_empty() { id.clone() } else { name },
        id,
        notes: fields.text("Notes")?,
        service_id: fields.text("ServiceID")?,
        status: status(fields)?,
        output: fields.text("Output")?,
        keeps_status: false,
        definition: Definition::default(),
        shown_definition: shown.map_or_else(String::new, |shown| Value::Object(shown.object.clone()).to_string()),
    })
}

/// A service with its checks, as an agent registers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// The service.
    pub service: ServiceForm,
    /// Its checks.
    pub checks: Vec<CheckForm>,
}

/// Reads a service as `PUT /v1/agent/service/register` and a configuration file give it.
///
/// # Errors
/// What is wrong with it, for people.
pub fn declared_service(value: &Value) -> Result<Declared, String> {
    let fields = Fields::of(value).ok_or("a service is an object")?;
    let service = service(&fields, "Name")?;
    if service.name.is_empty() {
        return Err("Missing service name".into());
    }
    if matches!(service.address.as_str(), "0.0.0.0" | "::" | "[::]") {
        return Err("Invalid service address".into());
    }
    let mut given: Vec<&Value> = fields.get("Check").into_iter().collect();
    given.extend(fields.list("Checks")?);
    let given: Vec<_> = given.into_iter().filter_map(Fields::of).filter(|fields| !fields.object.is_empty()).collect();
    let count = given.len();
    let mut checks = Vec::new();
    for (number, fields) in given.iter().enumerate() {
        let mut check = agent_check(fields).map_err(|why| format!("Invalid check: {why}"))?;
        // As Consul: an id of its own only where one is given as CheckID.
        check.id = fields.text("CheckID").map_err(|why| format!("Invalid check: {why}"))?;
        if check.id.is_empty() {
            check.id = match count {
                1 => format!("service:{}", service.id),
                _ => format!("service:{}:{}", service.id, number + 1),
            };
        }
        if check.name.is_empty() {
            check.name = format!("Service '{}' check", service.name);
        }
        check.service_id.clone_from(&service.id);
        checks.push(check);
    }
    Ok(Declared { service, checks })
}

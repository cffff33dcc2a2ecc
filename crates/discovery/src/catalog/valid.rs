//! What is well formed. An error is a text for the one who asked.

use std::collections::BTreeMap;

use crate::change::DocumentChange;
use crate::limits::*;
use crate::model::{CheckForm, HttpRequest, NodeForm, Probe, ServiceForm};
use crate::session::SessionForm;

fn short(what: &str, text: &str, most: usize) -> Result<(), String> {
    if text.len() > most {
        return Err(format!("{what} is {} bytes long, at most {most} are taken", text.len()));
    }
    Ok(())
}

fn name(what: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("Missing {what}"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{what} has control characters"));
    }
    short(what, text, NAME_BYTES_MAX)
}

fn meta(pairs: &BTreeMap<String, String>) -> Result<(), String> {
    if pairs.len() > META_PAIRS_MAX {
        return Err(format!("Node metadata cannot contain more than {META_PAIRS_MAX} key/value pairs"));
    }
    for (key, value) in pairs {
        if key.is_empty() {
            return Err("Couldn't load metadata pair ('', …): Key cannot be blank".into());
        }
        if key.len() > META_KEY_BYTES_MAX {
            return Err(format!("Key is too long (limit: {META_KEY_BYTES_MAX} characters)"));
        }
        if value.len() > META_VALUE_BYTES_MAX {
            return Err(format!("Value is too long (limit: {META_VALUE_BYTES_MAX} characters)"));
        }
    }
    Ok(())
}

fn few(what: &str, count: usize, most: usize) -> Result<(), String> {
    if count > most { Err(format!("{count} {what}, at most {most} are taken")) } else { Ok(()) }
}

pub(super) fn session(form: &SessionForm) -> Result<(), String> {
    name("session ID", &form.id)?;
    short("the session's name", &form.name, NAME_BYTES_MAX)?;
    name("node name", &form.node)?;
    few("checks of a session", form.node_checks.len() + form.service_checks.len(), SESSION_CHECKS_MAX)?;
    for check in form.node_checks.iter().chain(&form.service_checks) {
        short("the ID of a check", check, NAME_BYTES_MAX)?;
    }
    short("the session's TTL", &form.ttl, NAME_BYTES_MAX)?;
    if form.ttl_ms != 0 && !(SESSION_TTL_MIN_MS..=SESSION_TTL_MAX_MS).contains(&form.ttl_ms) {
        return Err(format!("Invalid Session TTL '{}', must be between [10s=24h0m0s]", form.ttl_ms * 1_000_000));
    }
    Ok(())
}

pub(super) fn node(form: &NodeForm) -> Result<(), String> {
    name("node name", &form.name)?;
    short("the node's ID", &form.id, NAME_BYTES_MAX)?;
    short("the node's address", &form.address, ADDRESS_BYTES_MAX)?;
    few("tagged addresses", form.tagged_addresses.len(), TAGGED_ADDRESSES_MAX)?;
    for (key, address) in &form.tagged_addresses {
        short("the name of an address", key, NAME_BYTES_MAX)?;
        short("a tagged address", address, ADDRESS_BYTES_MAX)?;
    }
    meta(&form.meta)
}

pub(super) fn service(form: &ServiceForm) -> Result<(), String> {
    name("service name", &form.name)?;
    name("service ID", &form.id)?;
    short("the service's address", &form.address, ADDRESS_BYTES_MAX)?;
    few("tags", form.tags.len(), TAGS_MAX)?;
    for tag in &form.tags {
        short("a tag", tag, TAG_BYTES_MAX)?;
    }
    few("tagged addresses", form.tagged_addresses.len(), TAGGED_ADDRESSES_MAX)?;
    for (key, tagged) in &form.tagged_addresses {
        short("the name of an address", key, NAME_BYTES_MAX)?;
        short("a tagged address", &tagged.address, ADDRESS_BYTES_MAX)?;
    }
    if form.weight_passing < 1 || form.weight_passing > 65535 {
        return Err("Passing must be greater than 0 and at most 65535".into());
    }
    if form.weight_warning > 65535 {
        return Err("Warning must be at most 65535".into());
    }
    meta(&form.meta)
}

pub(super) fn check(form: &CheckForm) -> Result<(), String> {
    name("check ID", &form.id)?;
    name("check name", &form.name)?;
    short("the check's service ID", &form.service_id, NAME_BYTES_MAX)?;
    short("notes", &form.notes, NOTES_BYTES_MAX)?;
    short("a definition", &form.shown_definition, DEFINITION_BYTES_MAX)?;
    match &form.definition.probe {
        Probe::Http(request) | Probe::Https(request, _) => {
            let pair =
                |(name, values): (&String, &Vec<String>)| name.len() + values.iter().map(String::len).sum::<usize>();
            let HttpRequest { url, method, headers, body, .. } = request;
            let bytes = url.len() + method.len() + body.len() + headers.iter().map(pair).sum::<usize>();
            if bytes > DEFINITION_BYTES_MAX {
                return Err(format!(
                    "a check's URL, headers and body have {bytes} bytes, at most {DEFINITION_BYTES_MAX} are taken"
                ));
            }
        }
        Probe::Tcp { address } | Probe::TcpTls { address, .. } | Probe::H2Ping { address, .. } => {
            short("a check's address", address, ADDRESS_BYTES_MAX)?;
        }
        Probe::Grpc { target, .. } => short("a check's address", target, ADDRESS_BYTES_MAX + NAME_BYTES_MAX)?,
        Probe::Alias { node, service } => {
            short("an alias's node", node, NAME_BYTES_MAX)?;
            short("an alias's service ID", service, NAME_BYTES_MAX)?;
        }
        Probe::External | Probe::Ttl => {}
    }
    if let Some(tls) = form.definition.probe.tls() {
        short("TLSServerName", &tls.server_name, NAME_BYTES_MAX)?;
    }
    Ok(())
}

pub(super) fn document(change: &DocumentChange) -> Result<(), String> {
    name("document kind", &change.kind)?;
    name("document name", &change.name)?;
    match &change.body {
        Some(body) if body.0.len() > DOCUMENT_BYTES_MAX => Err(format!(
            "document {:?} is {} bytes long, at most {DOCUMENT_BYTES_MAX} are taken",
            change.name,
            body.0.len()
        )),
        _ => Ok(()),
    }
}

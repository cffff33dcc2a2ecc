//! Which header fields go on, in both directions, and what the engine writes itself.
//!
//! Fields that concern one connection only stay here (RFC 9110 §7.6.1), with those that Connection names. Host, the framing and what is told
//! about the client are written anew; a client cannot forge them.

use crate::body::{Encoder, push_decimal, push_field};
use crate::head::{
    AnswerHead, Bad, BodyLength, Fields, RequestHead, Version, is_authority, is_framing, is_target, is_token, is_value,
    list,
};
use crate::http2::hpack;
use crate::plan::{Forwarded, HeaderEdits, Peer, Plan, Rules};
use crate::pool::Endpoint;
use base::Duration;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use std::net::IpAddr;

/// The deadline for requests that are not gRPC, in milliseconds.
const TIMEOUT_HEADER: &str = "x-request-timeout-ms";
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// What stands in headers about a client, made once for each connection.
pub(crate) struct Client {
    ip: String,
    /// The element of `Forwarded` (RFC 7239) but its host.
    element: String,
    scheme: &'static str,
    trusted: bool,
}

impl Client {
    pub fn new(peer: &Peer) -> Client {
        let ip = peer.addr.ip().to_canonical();
        // RFC 7239 §6: an IPv6 address stands in brackets, and with them in quotes.
        let node = match ip {
            IpAddr::V4(ip) => format!("for={ip}"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\""),
        };
        let scheme = if peer.tls.is_some() { "https" } else { "http" };
        Client { ip: ip.to_string(), element: format!("{node};proto={scheme}"), scheme, trusted: peer.trusted }
    }
}

/// Fields that say who the client is.
fn is_about_client(name: &[u8]) -> bool {
    let is = |it: &str| name.eq_ignore_ascii_case(it.as_bytes());
    match name.len() {
        9 => is("forwarded") || is("x-real-ip"),
        15 => is("x-forwarded-for"),
        16 => is("x-forwarded-host") || is("x-forwarded-port"),
        17 => is("x-forwarded-proto"),
        _ => false,
    }
}

/// Whether Connection names this field.
fn is_nominated(fields: &Fields, name: &[u8]) -> bool {
    let connection = fields.iter().filter(|(it, _)| it.eq_ignore_ascii_case(b"connection"));
    connection.flat_map(|(_, value)| list(value)).any(|it| it.eq_ignore_ascii_case(name))
}

type Pairs = [(Box<str>, Box<str>)];

fn has<V>(pairs: &[(impl AsRef<str>, V)], name: &[u8]) -> bool {
    pairs.iter().any(|(it, _)| it.as_ref().as_bytes().eq_ignore_ascii_case(name))
}

fn is_edited(edits: &HeaderEdits, name: &[u8]) -> bool {
    edits.remove.iter().any(|it| it.as_bytes().eq_ignore_ascii_case(name)) || has(&edits.set, name)
}

/// Puts the pairs that may stand in a head.
fn put_pairs(pairs: &[(impl AsRef<str>, impl AsRef<str>)], put: &mut impl FnMut(&[u8], &[u8])) {
    for (name, value) in pairs {
        let (name, value) = (name.as_ref().as_bytes(), value.as_ref().as_bytes());
        if is_token(name) && is_value(value) && !is_framing(name) {
            put(name, value);
        }
    }
}

/// Each field for the upstream but Host and the framing.
fn request_fields(
    request: &RequestHead,
    plan: &Plan,
    client: &Client,
    left: Option<Duration>,
    mut put: impl FnMut(&[u8], &[u8]),
) {
    let (rules, fields) = (&*plan.rules, &request.fields);
    let deadline = if rules.pass_deadline { left } else { None };
    for (name, value) in fields.iter() {
        let dropped = is_framing(name)
            || is_about_client(name)
            || request.hop.nominates && is_nominated(fields, name) && !base::is_planted(base::Bug::HopFieldsForwarded)
            || deadline.is_some()
                && (name.eq_ignore_ascii_case(TIMEOUT_HEADER.as_bytes())
                    || name.eq_ignore_ascii_case(GRPC_TIMEOUT.as_bytes()))
            || is_edited(&rules.request_headers, name)
            || has(&plan.headers, name);
        if !dropped {
            put(name, value);
        }
    }
    about_client(request, rules.forwarded, client, &mut put);
    if let Some(left) = deadline {
        // At most eight digits (gRPC's protocol, "Timeout"); not nothing, since nothing would mean no limit to some.
        let millis = left.as_millis().clamp(1, 99_999_999);
        let mut text = Vec::with_capacity(24);
        push_decimal(millis as u64, &mut text);
        let grpc = request.is_grpc();
        if grpc {
            text.push(b'm');
        }
        put(if grpc { GRPC_TIMEOUT } else { TIMEOUT_HEADER }.as_bytes(), &text);
    }
    put_pairs(&rules.request_headers.set, &mut put);
    put_pairs(&rules.request_headers.add, &mut put);
    put_pairs(&plan.headers, &mut put);
}

fn about_client(request: &RequestHead, forwarded: Forwarded, client: &Client, put: &mut impl FnMut(&[u8], &[u8])) {
    let before = |name: &str| if client.trusted { joined(&request.fields, name) } else { None };
    let after = |before: Option<Vec<u8>>, it: &str| match before {
        Some(mut list) => {
            list.extend_from_slice(b", ");
            list.extend_from_slice(it.as_bytes());
            list
        }
        None => it.as_bytes().to_vec(),
    };
    if matches!(forwarded, Forwarded::X | Forwarded::Both) {
        if client.trusted {
            put(b"x-forwarded-for", &after(before("x-forwarded-for"), &client.ip));
        } else {
            put(b"x-forwarded-for", client.ip.as_bytes());
        }
        put(b"x-forwarded-proto", before("x-forwarded-proto").as_deref().unwrap_or(client.scheme.as_bytes()));
        let host = before("x-forwarded-host");
        let host = host.as_deref().unwrap_or(request.authority().as_bytes());
        if !host.is_empty() {
            put(b"x-forwarded-host", host);
        }
    }
    if matches!(forwarded, Forwarded::Rfc7239 | Forwarded::Both) {
        let host = request.authority();
        let mut element = String::with_capacity(client.element.len() + host.len() + 16);
        element.push_str(&client.element);
        if !host.is_empty() {
            element.push_str(";host=\"");
            element.push_str(host);
            element.push('"');
        }
        match before("forwarded") {
            Some(list) => put(b"forwarded", &after(Some(list), &element)),
            None => put(b"forwarded", element.as_bytes()),
        }
    }
}

/// All values of a name as one list.
fn joined(fields: &Fields, name: &str) -> Option<Vec<u8>> {
    let mut values = fields.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value);
    let mut list = values.next()?.to_vec();
    for value in values {
        list.extend_from_slice(b", ");
        list.extend_from_slice(value);
    }
    Some(list)
}

/// Checks what the plan puts into a request's first lines.
pub(crate) fn check(plan: &Plan) -> Result<(), Bad> {
    let target = plan.target.as_deref().is_none_or(|target| is_target(target.as_bytes()));
    let host = plan.host.as_deref().is_none_or(|host| is_authority(host.as_bytes()));
    if target && host {
        Ok(())
    } else {
        Err(Bad { status: 500, why: "a rewritten target or host that cannot be sent" })
    }
}

/// The Host that the endpoint gets; `to` is the one that is asked, which after a retry is not the plan's.
fn host<'a>(request: &'a RequestHead, plan: &'a Plan, to: &'a Endpoint) -> &'a str {
    if plan.endpoint_host { &to.config().host } else { plan.host.as_deref().unwrap_or(request.authority()) }
}

/// Writes a request's head for HTTP/1.1; the encoder for its body.
pub(crate) fn request_h1(
    request: &RequestHead,
    plan: &Plan,
    to: &Endpoint,
    client: &Client,
    left: Option<Duration>,
    out: &mut Vec<u8>,
) -> Encoder {
    out.extend_from_slice(request.method().as_bytes());
    out.push(b' ');
    out.extend_from_slice(plan.target.as_deref().unwrap_or(request.target()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    push_field(b"host", host(request, plan, to).as_bytes(), out);
    request_fields(request, plan, client, left, |name, value| push_field(name, value, out));
    let encoder = match request.body {
        BodyLength::Known(length) => push_length(length, Encoder::Length(length), out),
        BodyLength::Streamed | BodyLength::UntilClose => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Encoder::Chunked
        }
        BodyLength::None if request.hop.length.is_some() => push_length(0, Encoder::None, out),
        // A server may refuse a POST that does not say so (RFC 9110 §8.6).
        BodyLength::None if matches!(request.method(), "POST" | "PUT" | "PATCH") => push_length(0, Encoder::None, out),
        BodyLength::None => Encoder::None,
    };
    if plan.rules.websocket && request.asks_websocket() {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
    }
    out.extend_from_slice(b"\r\n");
    encoder
}

fn push_length(length: u64, encoder: Encoder, out: &mut Vec<u8>) -> Encoder {
    out.extend_from_slice(b"content-length: ");
    push_decimal(length, out);
    out.extend_from_slice(b"\r\n");
    encoder
}

const UNSENDABLE: Bad = Bad { status: 400, why: "a head that HTTP/2 cannot carry" };

/// A request's head for HTTP/2.
pub(crate) fn request_h2(
    request: &RequestHead,
    plan: &Plan,
    to: &Endpoint,
    client: &Client,
    left: Option<Duration>,
) -> Result<Request<()>, Bad> {
    let authority = host(request, plan, to);
    let scheme = if to.config().tls.is_some() { "https" } else { "http" };
    let path = plan.target.as_deref().unwrap_or(request.target());
    let uri =
        Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().map_err(|_| UNSENDABLE)?;
    let mut it = Request::new(());
    *it.uri_mut() = uri;
    *it.method_mut() = Method::from_bytes(request.method().as_bytes()).map_err(|_| UNSENDABLE)?;
    *it.version_mut() = http::Version::HTTP_2;
    let headers = it.headers_mut();
    request_fields(request, plan, client, left, |name, value| append(headers, name, value));
    if let BodyLength::Known(length) = request.body {
        headers.insert(http::header::CONTENT_LENGTH, length.into());
    }
    if request.hop.trailers {
        headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(it)
}

fn append(headers: &mut http::HeaderMap, name: &[u8], value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
        // Only a map of 2^15 fields is full; heads have at most `fields_max`.
        let _ = headers.try_append(name, value);
    }
}

/// What of an answer goes to the client beside its fields.
pub(crate) struct Passing<'a> {
    pub rules: &'a Rules,
    /// Fields that the decider added.
    pub added: &'a Pairs,
    /// Where the body ends.
    pub body: BodyLength,
    /// What the client speaks.
    pub version: Version,
    /// Whether the client's connection ends after it.
    pub close: bool,
    /// Whether it answers a HEAD.
    pub to_head: bool,
}

fn answer_fields(answer: &AnswerHead, passing: &Passing<'_>, mut put: impl FnMut(&[u8], &[u8])) {
    let (fields, edits) = (&answer.fields, &passing.rules.answer_headers);
    for (name, value) in fields.iter() {
        let dropped = is_framing(name) || answer.hop.nominates && is_nominated(fields, name) || is_edited(edits, name);
        if !dropped {
            put(name, value);
        }
    }
    put_pairs(&edits.set, &mut put);
    put_pairs(&edits.add, &mut put);
    put_pairs(passing.added, &mut put);
}

pub(crate) fn push_status(status: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(status.into(), out);
    out.push(b' ');
    let reason = StatusCode::from_u16(status).ok().and_then(|it| it.canonical_reason()).unwrap_or_default();
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes an answer's head for a client of HTTP/1; the encoder for its body.
pub(crate) fn answer_h1(answer: &AnswerHead, passing: &Passing<'_>, out: &mut Vec<u8>) -> Encoder {
    push_status(answer.status, out);
    answer_fields(answer, passing, |name, value| push_field(name, value, out));
    let encoder = match passing.body {
        BodyLength::Known(length) => push_length(length, Encoder::Length(length), out),
        BodyLength::Streamed | BodyLength::UntilClose if passing.version == Version::Http10 => Encoder::UntilClose,
        BodyLength::Streamed | BodyLength::UntilClose => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Encoder::Chunked
        }
        BodyLength::None => {
            // What a GET would have had (HEAD, 304), or that there is nothing.
            let none = answer.status < 200 || answer.status == 204;
            match answer.hop.length {
                _ if none => Encoder::None,
                Some(length) => push_length(length, Encoder::None, out),
                None if passing.to_head || answer.status == 304 => Encoder::None,
                // HTTP/2 needs no length to say that there is nothing.
                None => push_length(0, Encoder::None, out),
            }
        }
    };
    if answer.status >= 200 {
        match passing.version {
            _ if passing.close => out.extend_from_slice(b"connection: close\r\n"),
            Version::Http10 => out.extend_from_slice(b"connection: keep-alive\r\n"),
            _ => {}
        }
    }
    if answer.status == 101 {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
    }
    out.extend_from_slice(b"\r\n");
    encoder
}

/// Writes an answer's head for a client of HTTP/2.
pub(crate) fn answer_h2(answer: &AnswerHead, passing: &Passing<'_>, out: &mut Vec<u8>) {
    hpack::push_status(answer.status, out);
    answer_fields(answer, passing, |name, value| hpack::push_field(name, value, out));
    if let Some(length) = answer.hop.length.filter(|_| answer.status >= 200 && answer.status != 204) {
        push_length_h2(length, out);
    }
}

pub(crate) fn push_length_h2(length: u64, out: &mut Vec<u8>) {
    let mut text = Vec::with_capacity(20);
    push_decimal(length, &mut text);
    hpack::push_field(b"content-length", &text, out);
}

impl AnswerHead {
    /// Takes over a head of HTTP/2.
    pub(crate) fn take_h2(&mut self, parts: &http::response::Parts) -> Result<(), Bad> {
        self.clear();
        self.version = Version::Http2;
        self.status = parts.status.as_u16();
        for (name, value) in &parts.headers {
            if name == http::header::CONTENT_LENGTH {
                self.hop.length = Some(
                    crate::head::digits(value.as_bytes())
                        .ok_or(Bad { status: 502, why: "Content-Length is no number" })?,
                );
            } else if !is_framing(name.as_str().as_bytes()) {
                self.fields.push(name.as_str().as_bytes(), value.as_bytes());
            }
        }
        Ok(())
    }
}

/// Trailers of HTTP/2 as fields.
pub(crate) fn fields_of(headers: &http::HeaderMap) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in headers {
        if !is_framing(name.as_str().as_bytes()) {
            fields.push(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    fields
}

/// Fields as trailers of HTTP/2.
pub(crate) fn headers_of(fields: &Fields) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    fields.iter().for_each(|(name, value)| append(&mut headers, name, value));
    headers
}
